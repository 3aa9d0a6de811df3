"""The suite's own tests run the same examples every time; ``explore`` looks for new ones.

``python -m pytest tests/unit --hypothesis-profile=explore`` finds other inputs on each run, and
what it finds becomes an ``@example``: a release never hangs on the throw of a die.
"""

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile("same")
