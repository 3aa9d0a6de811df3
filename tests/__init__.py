"""The checks (container, sagemaker, gpu), their faults, and the suite's own tests."""
