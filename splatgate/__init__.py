"""Splatgate: may this 3DGS training image go to SageMaker?"""

__version__ = "0.2.0"
