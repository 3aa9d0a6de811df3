"""Production trainer for 3D Gaussian splatting, run as one SageMaker training job.

Importing this package imports no third-party module: what can fail before PyTorch is loaded
fails before it.
"""

__version__ = "0.1.0"
