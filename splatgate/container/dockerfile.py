"""Reads commands that build an image, from a Dockerfile, a log or an image's history, and finds
those that do not do what they say.

A few rules, under hadolint's codes where it has one, so that its own remark waives a finding:
``# hadolint ignore=DL3013`` on the line before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What is wrong with one instruction. ``rule`` is its code."""

    rule: str
    text: str
    reason: str


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its lines joined; ``ignored`` are rules waived for it."""

    name: str
    text: str
    line: int = 0
    ignored: tuple[str, ...] = ()


#: What Docker's history puts before a command: build arguments, the shell, BuildKit's own remark.
_HISTORY = re.compile(r"^(?:RUN )?(?:\|\d+ (?:\S+=.*? )*?)?/bin/(?:ba)?sh -e?[cx]*c?\s*")
_PIP = re.compile(r"\b(?:pip[\d.]*|uv pip)\s+install\b(?P<rest>[^;&|]*)")
#: An option of pip that takes the next word.
_TAKES = re.compile(
    r"-(?:r|c|e|i|f|t)|--(?:requirement|constraint|editable|index-url|extra-index-url|find-links"
    r"|target|no-binary|only-binary|prefix|root|python|cache-dir|config-settings?|progress-bar"
    r"|global-option|trusted-host|retries|timeout|platform|abi|implementation|python-version)"
)
#: A version constraint whose sign the shell takes for a redirection.
_UNQUOTED = re.compile(r"(?:^|\s)(?P<word>[A-Za-z][\w.\[\],-]*\s?[<>~!]?[<>]=?\s?\d[\w.*]*)")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")


def read(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile."""
    found: list[Instruction] = []
    ignored: tuple[str, ...] = ()
    parts: list[str] = []
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            if waived := re.search(r"hadolint\s+ignore=([\w,]+)", line):
                ignored = tuple(waived.group(1).split(","))
            continue
        if not line.strip():
            continue
        start = start if parts else number
        parts.append(line.rstrip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            whole = " ".join(parts)
            name, _, rest = whole.partition(" ")
            found.append(Instruction(name.upper(), rest.strip(), start, ignored))
            parts, ignored = [], ()
    return found


def judge(instructions: list[Instruction]) -> list[Finding]:
    """What is wrong with the instructions of a Dockerfile."""
    found = []
    for step in instructions:
        place = f"line {step.line}, " if step.line else ""
        findings: list[tuple[str, str]] = []
        if step.name == "RUN":
            findings += command(step.text)
        if step.name == "FROM":
            findings += platform(step.text)
        found += [
            Finding(rule, f"{place}{step.name} {step.text[:120]}", reason)
            for rule, reason in findings
            if rule not in step.ignored
        ]
    return found


def history(created_by: str) -> str:
    """The command of a layer, as Docker's history tells it."""
    return _HISTORY.sub("", created_by.removesuffix(" # buildkit")).strip()


def command(text: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a shell command: (rule, reason)."""
    for call in _PIP.finditer(text):
        rest = call["rest"]
        if loose := _UNQUOTED.search(_QUOTED.sub(" ", rest)):
            word = loose["word"].strip()
            yield (
                "unquoted-constraint",
                f"{word}: the shell redirects to a file, any version installs",
            )
        unpinned = [word for word in packages(rest) if not re.search(r"===?\S|@|^[./]|\$", word)]
        if unpinned and "--require-hashes" not in rest:
            yield "DL3013", f"pip install of no one version: {', '.join(unpinned)}"


def packages(arguments: str) -> list[str]:
    """The requirements among the arguments of `pip install`."""
    words = re.sub(r"[<>]=?\s?\d\S*", " ", _QUOTED.sub(lambda m: m[0][1:-1], arguments)).split()
    found, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = "=" not in word and _TAKES.fullmatch(word) is not None
        elif re.match(r"[A-Za-z.$/]", word) and not word.endswith((".whl", ".tar.gz", ".txt")):
            found.append(word)
    # The installer's own tools are not what the image runs.
    return [w for w in found if w not in ("pip", "setuptools", "wheel", "ninja", ".", "..")]


def comment(text: str) -> bool:
    """Whether a value of ENV takes a comment along."""
    return re.search(r"\s#(?:\s|\w)", _QUOTED.sub("", text)) is not None


def platform(text: str) -> Iterator[tuple[str, str]]:
    """A platform of FROM that SageMaker does not run."""
    named = re.search(r"--platform=(\S+)", text)
    if named and "$" not in named[1] and named[1] not in ("linux/amd64", "linux/x86_64"):
        yield "DL3029", f"{named[1]} is not linux/amd64, which SageMaker's hosts run"
