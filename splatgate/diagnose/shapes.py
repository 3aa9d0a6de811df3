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
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

#: Longest line that is looked at, and deepest JSON that is mended.
LONG, DEEP = 4_000, 200

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
#: A log event wherever it stands.
_EVENT = re.compile(r'\{[^{}"]*(?:"\w+"\s*:\s*(?:"(?:[^"\\]|\\.)*"|\d+)[\s,]*)*\}')
#: Of a table and of YAML: an event's message, between its two times or alone.
_CELLS = re.compile(r"\|{1,2}\s*(\d{12,14})\s*\|\s*(.*?)\s*\|\s*(\d{12,14})\s*\|{1,2}$")
_SCALAR = re.compile(r"(?:- |  )message: (['\"]?)(.*)\1$")
_EVENTS = re.compile(r"EVENTS\t(\d+)\t(.*?)\t(\d{12,})$")


def decoded(data: bytes) -> str | None:
    """The text of a file, or None of one that is none; UTF-16 is known without its mark too."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    start = data[:1024]
    for codec, high in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        if len(start) > 3 and high.count(0) > 0.8 * len(high):
            return data.decode(codec, "replace") if start.count(0) < 0.6 * len(start) else None
    return None if b"\0" in start else data.decode("utf-8-sig", "replace")


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
    ends: deque[tuple[int, str]] = deque(maxlen=8)
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[{}\[\],]', text):
        mark = found[0]
        if mark in "{[":
            closers.append("}" if mark == "{" else "]")
        elif mark == ",":
            ends.append((found.start(), "".join(reversed(closers))))
        elif mark in "}]" and closers:
            closers.pop()
            ends.append((found.end(), "".join(reversed(closers))))
        if len(closers) > DEEP:
            return None
    # A cut inside a pair or a word costs that element, no more.
    for place, closing in reversed(ends):
        if (value := parsed(text[:place] + closing)) is not None:
            return value
    return None


def events(text: str) -> list[dict[str, Any]]:
    """The log events in a piece of JSON that has no beginning."""
    found = (parsed(part[0]) for part in _EVENT.finditer(text))
    return [event for event in found if isinstance(event, dict)]


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
    """Time and message of each row of a CSV of log events, or None. Excel's has semicolons."""
    first = text.partition("\n")[0].lower()
    if "message" not in first or not re.search("[,;\t]", first):
        return None
    mark = max(",;\t", key=first.count)
    csv.field_size_limit(1 << 24)
    reader = csv.reader(io.StringIO(text), delimiter=mark)
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
    """Number, time, stream and words of each line of a log that is not empty.

    What a progress bar overwrites (a lone carriage return) is a line of its own.
    """
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        at, stream, line = None, "", cut(line.rstrip("\n"))
        if found := _EVENTS.match(line) or _CELLS.match(line):
            line, at = found[2], moment(int(found[3]))
        elif found := _SCALAR.match(line):
            line = found[2].replace("''", "'") if found[1] else found[2]
        elif found := _TAIL.match(line):
            at, stream, line = moment(found[1]), found[2] or "", found[3]
        if line.strip():
            yield number, at, stream, line


def cut(line: str) -> str:
    """A line of bounded length: its beginning and its end, where an error stands."""
    if len(line) <= LONG:
        return line
    end = line[-LONG // 2 :]
    return f"{short(line, LONG // 4)} … {end[end[:200].find(' ') + 1 :]}"


def short(line: str, most: int) -> str:
    """The beginning of a line, cut between two words: half a secret is not known for one."""
    if len(line) <= most:
        return line
    end = line.rfind(" ", most // 2, most)
    return line[: end if end > 0 else most]


def moment(value: Any) -> float | None:
    """Seconds since 1970 of what boto3, the AWS CLI and the console print as a time, or None."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
        value = int(value)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        if not 0 <= value < 1e14:
            return None
        # CloudWatch Logs counts milliseconds.
        return value / 1000 if value > 1e11 else float(value)
    try:
        found = datetime.fromisoformat(str(value).strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
