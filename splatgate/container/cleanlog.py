"""Reads a build's log and finds what it warns of or reports as an error.

Three formats, told apart line by line: BuildKit's plain progress (ours has seconds in front), a
GitHub Actions log as `gh run view --log` saves it, and BuildKit's JSON progress
(`--progress=rawjson`). Only what was *said* counts: a step's own command, which may hold `-Werror`
or the word "warning", is no finding. Neither is a file's or a package's name, such as
`libgpg-error0`: a severity stands at the start of a line, or after the name of the tool or place
that speaks.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

WARNING, ERROR = "warning", "error"


@dataclass(frozen=True)
class Finding:
    """One line that warns or reports an error. ``known`` is why it is harmless, or None."""

    line: int
    kind: str
    text: str
    known: str | None = None


@dataclass(frozen=True)
class Known:
    """A line that looks like a finding and means nothing, with the reason."""

    pattern: str
    reason: str


#: Each was seen in a good build. An entry that hides a cause of failure must not be here.
KNOWN = (
    Known(
        r"Running pip as the 'root' user",
        "a container image has no other user, and nothing else manages its Python",
    ),
    Known(
        r"You are using pip version .+; however, version",
        "pip's own age: what it installs is named by the lock",
    ),
    Known(
        r"debconf: (?:delaying package configuration|unable to initialize frontend"
        r"|\(|falling back to frontend)",
        "nobody answers questions while an image is built; packages take their defaults",
    ),
    Known(
        r"apt does not have a stable CLI interface",
        "a remark on apt's output, which nothing reads",
    ),
    Known(
        r"update-alternatives: warning: skip creation of \S+/(?:man|doc)/",
        "manual pages are left out of slim bases on purpose",
    ),
    Known(
        r"No CUDA runtime is found, using CUDA_HOME",
        "the builder has no GPU; what was compiled is read from the library (runtime.cuda)",
    ),
    Known(
        r"Node\.js \d+ actions are deprecated|(?:Node|Python|go) cache|Cache (?:save|restore)",
        "about the runner or its cache, not about the image",
    ),
    Known(
        r"(?:current commit information was not captured|failed to read current commit"
        r" information)",
        "provenance of the builder; the image's labels name the revision",
    ),
)

#: What speaks before a severity: `file.cu:12:3:`, `file.cu(12):`, `update-alternatives:`.
_PLACE = r"(?:[\w./+@~-]+(?:\(\d+(?:,\d+)?\)|(?::\d+)+)?\s*:\s*){0,3}"
_TOOL = r"(?:(?:nvcc|ptxas|nvlink|cc1plus|fatal|internal compiler|internal|compilation)\s+)?"
_PATTERNS = (
    # GitHub's annotations; pip, gcc, nvcc, ld, dpkg, hadolint: `[place:] [tool] severity [code]:`.
    (WARNING, r"##\[warning\]"),
    (ERROR, r"##\[error\]"),
    (WARNING, rf"{_PLACE}{_TOOL}(?i:warn(?:ing)?)(?: [#\w-]+)?\s*:(?!:)"),
    (ERROR, rf"{_PLACE}{_TOOL}(?i:error|fatal)(?: [#\w-]+)?\s*:(?!:)"),
    (WARNING, r"\[(?i:warn(?:ing)?)\]|\[W[ \d]"),
    (ERROR, r"\[(?i:error|fatal)\]|\[E[ \d]"),
    (ERROR, r"nvcc fatal\s+:"),
    # BuildKit's own remarks, and its checks of the Dockerfile.
    (WARNING, r"\d+ warnings? found\b"),
    (WARNING, r"- [A-Z]\w+: .+ \(line \d+\)$"),
    # Python: `file.py:12: UserWarning:`, `ModuleNotFoundError:`, compileall, pip.
    (WARNING, r"(?:\S+\.py:\d+:\s+)?(?:[\w.]+\.)?\w*Warning: "),
    (ERROR, r"(?:\S+\.py:\d+:\s+)?(?:[\w.]+\.)?\w*(?:Error|Exception): "),
    (ERROR, r"Traceback \(most recent call last\)"),
    (ERROR, r"\*\*\* (?:Error compiling|Sorry)"),
    (WARNING, r"DEPRECATION: "),
    (ERROR, r"Failed to build (?!with)\S"),
    (ERROR, r"\S+ \S+ (?:requires|has requirement) .+, (?:but you have .+ which is incompatible"
            r"|which is not installed)\.$"),
    # gsplat without nvcc: the build ends well and has compiled nothing (contract 6.3).
    (WARNING, r".*\bNo CUDA (?:toolkit|runtime) (?:is )?found"),
    # apt, debconf, npm, make, ninja, glog, logrus, git, coreutils, the shell, the kernel.
    (WARNING, r"W: "),
    (ERROR, r"E: "),
    (WARNING, r"debconf: "),
    (WARNING, r"npm (?:warn|WARN)\b"),
    (ERROR, r"npm (?:error|ERR!)"),
    (ERROR, r"(?:make|gmake)(?:\[\d+\])?: \*\*\* "),
    (ERROR, r"ninja: (?:build stopped|error)"),
    (WARNING, r"W\d{4} \d\d:\d\d"),
    (ERROR, r"[EF]\d{4} \d\d:\d\d"),
    (WARNING, r".*\blevel=warn(?:ing)?\b"),
    (ERROR, r".*\blevel=(?:error|fatal)\b"),
    (WARNING, r"CMake (?:Deprecation )?Warning\b"),
    (ERROR, r"CMake Error\b"),
    (ERROR, r"(?:\S*/)?(?:ba|da|z)?sh: (?:line )?\d+: .+: (?:not found|command not found"
            r"|Permission denied)$"),
    (ERROR, r"(?:cp|mv|rm|ln|cat|chmod|chown|mkdir|tar|sed|find|install): .*(?:cannot |No such file"
            r"|Permission denied)"),
    (ERROR, r"curl: \(\d+\) "),
    (ERROR, r"\S*ld(?:\.\w+)?: cannot find "),
    (ERROR, r"Killed$|Segmentation fault|.*\b[Kk]illed signal\b"),
    (ERROR, r".*\bNo space left on device"),
)  # fmt: skip
_FINDINGS = tuple((kind, re.compile(rf"\s*(?:{pattern})")) for kind, pattern in _PATTERNS)
_KNOWN = tuple((re.compile(known.pattern), known.reason) for known in KNOWN)

_COLOUR = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
_SECONDS = re.compile(r"^ *\d+\.\d\d ")
#: `job TAB step TAB time text`, or the time alone, as in the archive that the web page offers.
_GITHUB = re.compile(r"^(?:[^\t]*\t[^\t]*\t)?\ufeff?\d{4}-\d\d-\d\dT[\d:.]+Z ?")
#: Output of a command in BuildKit's plain progress has its seconds; the builder's own words have
#: none.
_OUTPUT = re.compile(r"^#\d+ \d+\.\d+ ?")
_VERTEX = re.compile(r"^#\d+ ")
_OWN = re.compile(r"^(?:ERROR|CANCELED|WARN)\b")
_CLASSIC_STEP = re.compile(r"^Step \d+/\d+ : ")
_RUN = re.compile(r"^#(\d+) \[[^\]]+\] RUN ")


def findings(text: str) -> list[Finding]:
    """Every line of a log that warns or reports an error, in order.

    Args:
        text: the log, in any of the three formats.
    """
    found = []
    for number, line in said(text):
        kind = severity(line)
        if kind is not None:
            reason = next((reason for known, reason in _KNOWN if known.search(line)), None)
            found.append(Finding(number, kind, line.strip(), reason))
    return found


def severity(line: str) -> str | None:
    """``warning``, ``error``, or None for a line without prefixes."""
    return next((kind for kind, pattern in _FINDINGS if pattern.match(line)), None)


def said(text: str) -> Iterator[tuple[int, str]]:
    """The lines that a builder or a command said, as (line number, text without prefixes)."""
    echoed = False
    for number, raw in enumerate(text.splitlines(), 1):
        if raw.startswith("{") and (events := _event(raw)) is not None:
            yield from ((number, line) for line in events)
            continue
        line = _COLOUR.sub("", raw)
        line, from_github = _GITHUB.subn("", line, count=1)
        if not from_github:
            line = _SECONDS.sub("", line, count=1)
        # A group named "Run ..." repeats a step's command and environment.
        if line.startswith("##[group]"):
            echoed = line.startswith("##[group]Run ")
            continue
        if line.startswith("##[endgroup]"):
            echoed = False
            continue
        if echoed or line.startswith("##[command]") or _CLASSIC_STEP.match(line):
            continue
        line, is_output = _OUTPUT.subn("", line, count=1)
        if not is_output and _VERTEX.match(line):
            line = _VERTEX.sub("", line, count=1)
            if not _OWN.match(line):
                continue
        # Ends of carriage-return progress bars are lines of their own.
        yield from ((number, part) for part in line.split("\r") if part.strip())


def ran(text: str) -> bool | None:
    """Whether any RUN step of a plain log was run and not taken from the cache.

    None: the log names no RUN step, or is of another format.
    """
    steps, cached = set(), set()
    for raw in text.splitlines():
        line = _SECONDS.sub("", _GITHUB.sub("", _COLOUR.sub("", raw), count=1), count=1)
        if step := _RUN.match(line):
            steps.add(step.group(1))
        elif end := re.match(r"^#(\d+) CACHED", line):
            cached.add(end.group(1))
    return bool(steps - cached) if steps else None


def _event(raw: str) -> list[str] | None:
    """The words in one record of BuildKit's JSON progress, or None when it is none."""
    try:
        record = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(record, dict) or not {"vertexes", "logs", "warnings", "statuses"} & {*record}:
        return None
    lines = []
    for vertex in _records(record, "vertexes"):
        if isinstance(error := vertex.get("error"), str) and error:
            lines.append(f"ERROR: {error}")
    for entry in _records(record, "logs"):
        lines += _decoded(entry.get("data")).splitlines()
    for entry in _records(record, "warnings"):
        lines.append(f"WARN: {_decoded(entry.get('short'))}")
    return [line for line in lines if line.strip()]


def _records(record: dict[str, Any], name: str) -> list[dict[str, Any]]:
    entries = record.get(name)
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _decoded(data: object) -> str:
    """Bytes as Go's JSON writes them."""
    try:
        text = base64.b64decode(data, validate=True) if isinstance(data, str) else b""
    except (binascii.Error, ValueError):
        return str(data)
    return text.decode("utf-8", "replace")


#: A builder's last words on a step that failed: BuildKit's, the classic builder's, GitHub's.
_FAILED = re.compile(
    r"(?:ERROR: )?failed to (?:solve|build)\b|.*executor failed running|ERROR: process .* did not"
    r" complete successfully|The command '.*' returned a non-zero code|##\[error\]Process completed"
    r" with exit code [1-9]|##\[error\]buildx failed|ERROR: (?:failed|executor)|##\[error\]The"
    r" operation was canceled"
)
_MADE = re.compile(
    r"(?:exporting config|writing image|exporting manifest|Successfully built)\s+(?:sha256:)?"
    r"(?P<id>[0-9a-f]{12,64})"
)


def failed(text: str) -> str | None:
    """The line by which a log says that the build failed, or None."""
    return next((line.strip() for _, line in said(text) if _FAILED.match(line.strip())), None)


def made(text: str) -> str | None:
    """The id of the image that a log says was made, as far as it is written, or None."""
    found = [m["id"] for m in map(_MADE.search, _COLOUR.sub("", text).splitlines()) if m]
    return found[-1] if found else None


def commands(text: str) -> list[str]:
    """The commands of the RUN steps that a plain or classic log names."""
    found = []
    for raw in text.splitlines():
        line = _SECONDS.sub("", _GITHUB.sub("", _COLOUR.sub("", raw), count=1), count=1)
        step = re.match(r"^(?:#\d+ \[[^\]]+\]|Step \d+/\d+ :) RUN (.+)", line)
        if step:
            found.append(re.sub(r"^(?:--\w+=\S+\s+)*", "", step.group(1)))
    return list(dict.fromkeys(found))
