"""A probe job: a short training job in a real account that looks at what SageMaker leaves open."""
