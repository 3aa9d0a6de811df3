"""``python -m splatgate VERB``."""

import signal
import sys

# An interrupt waits while the modules are loaded: each verb says how it ends.
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))

from splatgate.cli import main  # noqa: E402

try:
    status = main()
    sys.stdout.flush()
except OSError as error:
    # What is left in the buffer has nowhere to go, also when the interpreter ends.
    sys.stdout = None
    sys.stderr.write(f"splatgate: standard output: {error.strerror}\n")
    status = 3
# `python -m` ends by SIGINT where one has once passed through an exec() of text, as in dataclasses,
# also if it was answered; another exec() clears that (CPython's run_eval_code_obj).
exec("")
sys.exit(status)
