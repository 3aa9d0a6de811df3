#!/opt/venv/bin/python
"""Entry point of the training image: finds the trainer beside itself and runs one job."""

import os
import sys


def start() -> int:
    """Run the trainer; if even its package cannot be imported, say so in the failure file."""
    # The script may be called through a link and from any directory.
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
    try:
        from trainer.main import cli
    except Exception as error:
        text = f"E_INTERNAL: the trainer's package cannot be loaded: {error!r}"[:900]
        sys.stderr.write(text + "\n")
        output = os.path.join(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"), "output")
        os.makedirs(output, exist_ok=True)
        with open(os.path.join(output, "failure"), "w", encoding="utf-8") as stream:
            stream.write(text)
        return 1
    return cli()


if __name__ == "__main__":
    sys.exit(start())
