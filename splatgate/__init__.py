"""Splatgate: may this 3DGS training image go to SageMaker?"""
