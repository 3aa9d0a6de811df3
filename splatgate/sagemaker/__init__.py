"""What SageMaker does to a container: the request, the training host, the result."""
