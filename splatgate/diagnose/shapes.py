"""The notations in which people save what AWS and an engine print, as values and lines.

JSON whole or cut short, JSON lines, what PowerShell redirects (UTF-16), the tables and YAML of the
AWS CLI, a response that Python printed, CSV of the console.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from splatgate.evidence import BadInput

#: Files of a bundle larger than this are read up to it (bytes): a log has no bound.
MOST = 256 * 1024 * 1024
#: Members of a described job that are read where its notation is not JSON.
_MEMBERS = (
    "TrainingJobName|TrainingJobStatus|ProcessingJobName|ProcessingJobStatus|SecondaryStatus|"
    "FailureReason|ExitMessage|CreationTime|TrainingStartTime|TrainingEndTime|TrainingImage|"
    "InstanceType|MaxRuntimeInSeconds"
)
_MEMBER = re.compile(
    rf"(?<![\w.])({_MEMBERS})[\"']?\s*[:|]\s*"
    r"((?:\"(?:[^\"\\]|\\.)*\"\s*)+|(?:'(?:[^'\\]|''|\\.)*'\s*)+|[^|\n]*)"
)
_PART = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|''|\\.)*)'")
#: How a described job begins in any of these notations, and no log does.
_STRUCTURE = re.compile(r"\s*(?:[{\[|+]|-{8}|\w+:\s)")


#: `aws logs tail`: time, stream, message; `--output text`: EVENTS, ingestion, message, time; an
#: engine's log with times.
_TAIL = re.compile(r"(\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:?\d\d)?)\s+(?:(\S+/algo-\S+)\s+)?(.*)")
_EVENTS = re.compile(r"EVENTS\t(\d+)\t(.*?)\t(\d{12,})$")


def files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of a folder, an archive or of one file.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such bundle")
    try:
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                with file.open("rb") as stream:
                    yield str(PurePosixPath(file.relative_to(path))), stream.read(MOST)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if not info.is_dir():
                        with archive.open(info) as member:
                            yield info.filename, member.read(MOST)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                for entry in tar:
                    handle = tar.extractfile(entry) if entry.isfile() else None
                    if handle is not None:
                        yield entry.name, handle.read(MOST)
        else:
            yield path.name, path.read_bytes()[:MOST]
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: {error}; send the bundle again") from None


def decoded(data: bytes) -> str | None:
    """The text of a file, or None of one that is none."""
    for mark, codec in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return data.decode(codec, "replace")
    return None if b"\0" in data[:1024] else data.decode("utf-8-sig", "replace")


def parsed(text: str) -> Any:
    """The JSON in a text, or None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def mended(text: str) -> Any:
    """What of a JSON document came before it was cut short, or None."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    closers: list[str] = []
    #: Where an element ended, and what would close the document there.
    ends: list[tuple[int, str]] = []
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[{}\[\],]', text):
        mark = found[0]
        if mark in "{[":
            closers.append("}" if mark == "{" else "]")
        elif mark == ",":
            ends.append((found.start(), "".join(reversed(closers))))
        elif mark in "}]" and closers:
            closers.pop()
            ends.append((found.end(), "".join(reversed(closers))))
    # A cut inside a pair or a word costs that element, no more.
    for place, closing in reversed(ends[-8:]):
        if (value := parsed(text[:place] + closing)) is not None:
            return value
    return None


def described(text: str) -> dict[str, str] | None:
    """The members of a job that a text describes in a notation other than JSON, or None."""
    if not _STRUCTURE.match(text):
        return None
    found: dict[str, str] = {}
    for name, value in _MEMBER.findall(text):
        parts = ["".join(part) for part in _PART.findall(value)] if value[:1] in "\"'" else [value]
        found.setdefault(name, "".join(parts).replace("''", "'").strip())
    kinds = ("Training", "Processing")
    return found if any(f"{kind}JobStatus" in found for kind in kinds) else None


def rows(text: str) -> list[tuple[str, str]] | None:
    """Time and message of each row of a CSV of log events, or None."""
    reader = csv.reader(io.StringIO(text))
    try:
        header = [name.strip().lower().lstrip("@") for name in next(reader, [])]
        if "message" not in header or len(header) < 2:
            return None
        message = header.index("message")
        time = header.index("timestamp") if "timestamp" in header else None
        return [
            (row[time] if time is not None else "", row[message])
            for row in reader
            if len(row) == len(header)
        ]
    except csv.Error:
        return None


def fields(results: list[Any]) -> Iterator[tuple[str, str]]:
    """Time and message of each result of a Logs Insights query."""
    for result in results:
        pairs = {
            str(pair.get("field", "")).lstrip("@"): str(pair.get("value", ""))
            for pair in (result if isinstance(result, list) else ())
            if isinstance(pair, dict)
        }
        if "message" in pairs:
            yield pairs.get("timestamp", ""), pairs["message"]


def lines(text: str) -> Iterator[tuple[int, float | None, str, str]]:
    """Number, time, stream and words of each line of a log that is not empty."""
    for number, line in enumerate(io.StringIO(text), 1):
        at, stream, line = None, "", line.rstrip("\n")
        if found := _EVENTS.match(line):
            line, at = found[2], moment(int(found[3]))
        elif found := _TAIL.match(line):
            at, stream, line = moment(found[1]), found[2] or "", found[3]
        if line.strip():
            yield number, at, stream, line


def moment(value: Any) -> float | None:
    """Seconds since 1970 of what boto3, the AWS CLI and the console print as a time, or None."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        # CloudWatch Logs counts milliseconds.
        return value / 1000 if value > 1e11 else float(value)
    try:
        found = datetime.fromisoformat(str(value).strip())
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
