"""Judges a Step Functions state machine and the requests it renders, before it is deployed.

``definition`` reads, ``template`` evaluates paths and intrinsic functions, ``walk`` executes the
machine once for every way that a stage can end, ``rules`` and ``requests`` judge, ``judge`` puts
them together. Nothing here talks to AWS but ``live``.
"""
