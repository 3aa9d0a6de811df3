"""Judges a Step Functions state machine and the requests it renders, before it is deployed.

``source``, ``document`` and ``templates`` read files; ``definition`` is the language,
``expressions`` and ``jsonata`` evaluate, ``services`` and ``answers`` know AWS. ``simulator``
executes the machine once for every way that a stage can end. ``grammar``, ``outcomes``,
``polling``, ``requests``, ``handover``, ``timeouts`` and ``roles`` judge, ``judge`` puts them
together, ``report`` tells it. Nothing here talks to AWS but ``source`` where an ARN is given.
"""
