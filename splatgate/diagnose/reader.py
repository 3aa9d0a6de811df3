"""Reads what programs say when they fail: by the grammar of each tool, before its words are known.

Tracebacks of Python (chained, cut short, without their indentation), C++ and signals, compilers,
linkers, ninja, the dynamic loader, shells, container runtimes, pip and apt, glog, log levels and
the errors of AWS all end as one kind of thing: a ``Fault``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from splatgate.diagnose.bundle import Statement


@dataclass(frozen=True)
class Frame:
    """One frame of a traceback."""

    path: str
    line: str
    function: str

    @property
    def own(self) -> bool:
        """Whether the code is the job's own: no library's, no interpreter's."""
        return not re.search(
            r"(site|dist)-packages/|/lib/python3|^<|\bruntime/|/conda/bin/", self.path
        )

    def __str__(self) -> str:
        """``path:line in function``."""
        where = f"{self.path}:{self.line}"
        return f"{where} in {self.function}" if self.function else where


@dataclass(frozen=True)
class Fault:
    """One report that something went wrong."""

    #: Where it begins and ends in the statements that were read.
    begin: int
    place: int
    statement: Statement
    #: The exception line, or the tool's line, without time, level and logger.
    text: str
    #: 3: an exception, a signal, a loader's last words; 2: reported as an error; 1: as a warning,
    #: or in words only.
    level: int
    frames: tuple[Frame, ...] = ()

    @property
    def own(self) -> Frame | None:
        """The innermost frame of the job's own code."""
        return next((frame for frame in reversed(self.frames) if frame.own), None)


_GRAMMAR = tomllib.loads(Path(__file__).with_name("grammar.toml").read_text())


def _pattern(name: str) -> re.Pattern[str]:
    """One pattern of ``grammar.toml``."""
    row = _GRAMMAR[name]
    words = "|".join(row["any"])
    words = rf"\b(?:{words})\b" if row.get("whole_words") else words
    return re.compile(words, re.IGNORECASE if row.get("any_case") else 0)


#: Times, ranks, hosts, levels and loggers before the words of a line.
_LEVEL = r"TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|ERR|FATAL|CRITICAL|SEVERE"
_PREFIX = re.compile(
    r"(?:\s*(?:"
    r"\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d[\d.,:Z+-]*\]?"
    r"|\[?\d\d:\d\d:\d\d[.,\d]*\]?"
    r"|\[(?:rank|\d+,)[^\]\s]*\]:?(?:<std(?:err|out)>:?)?|algo-\d+\s*\||#\d+ \d+\.\d+"
    rf"|\[?(?:{_LEVEL}|[EWIF])\](?=[\s:-]|$)|(?:{_LEVEL})\b:?(?=[\s:-]|$)|\[(?:{_LEVEL})\]"
    rf"|sagemaker[\w.-]{{0,60}}(?=\s+(?:{_LEVEL})\b)|\| |- |: |> "
    r"))*\s*",
)
_GLOG = re.compile(r"\s*([IWEF])\d{4,8} \d\d:\d\d:\d\d\.\d+ +\d+ (\S+:\d+)\] (.*)")
_LEVELS = re.compile(rf"(?<![\w./-])(?:{_LEVEL}|\[[EWF]\])(?![\w./-])")
_FRAME = re.compile(r'\s*(?:\| *)?File "([^"]+)", line (\d+)(?:,? in (.+?))?\s*$')
_NATIVE_FRAME = re.compile(r'\s*File "([^"]+)", line (\d+) in (.+?)\s*$')
_HEAD = re.compile(
    r"((?:[A-Za-z_]\w*\.)*(?:\w*(?:Error|Exception|Exit|Interrupt|Failure|Expired|Timeout|"
    r"NotFound|Denied|Refused|Fault)|error|gaierror|timeout|BadZipFile))(?:: (.*)|:?)$"
)
_ANY_HEAD = re.compile(r"((?:[a-z_]\w*\.)*[A-Z]\w+)(?:: (.*)|:?)$")
_IGNORED = _pattern("ignored")
_TOOL = _pattern("tool")
_SIGNAL = _pattern("signal")
_WORDS = _pattern("words")
#: What AWS puts before a program's own words.
_OUTER = re.compile(r'^ErrorMessage "|^(?:AlgorithmError|ClientError): (?=\S)')
#: One of these is in every line that any of the patterns above knows; looking for them is cheap.
_SMELL = tuple(_GRAMMAR["smell"]["any"])
GOES_ON = _pattern("goes_on")
#: One of these is in every line that a quiet row of `kinds.toml` knows.
QUIET = tuple(_GRAMMAR["quiet"]["any"])


def words(line: str) -> tuple[str, str]:
    """The level that a line gives itself (or "") and its words without what stands before them."""
    if found := _GLOG.match(line):
        level = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "FATAL"}[found[1]]
        return level, f"{found[2]}: {found[3]}"
    prefix = _PREFIX.match(line)
    end = prefix.end() if prefix else 0
    told = _LEVELS.search(line[: end + 1])
    return (told[0].strip("[]") if told else ""), line[end:]


def faults(statements: Sequence[Statement]) -> list[Fault]:
    """Every report of something wrong in the statements of one stage, in their order."""
    found: list[Fault] = []
    number = 0
    while number < len(statements):
        said = statements[number].text
        if _begins(said):
            fault, number = _python(statements, number)
            if fault is not None:
                found.append(fault)
            continue
        fault = _line(statements, number)
        if fault is not None:
            found.append(fault)
        number += 1
    return found


def _begins(said: str) -> bool:
    return "Traceback (most recent call last)" in said or _FRAME.match(said) is not None


def _python(statements: Sequence[Statement], begin: int) -> tuple[Fault | None, int]:
    """The traceback that begins there, and where what follows begins."""
    frames: list[Frame] = []
    ignored = begin > 0 and "ignored in" in statements[begin - 1].text
    last = begin  # of the newest frame
    number = begin if _FRAME.match(statements[begin].text) else begin + 1
    while number < len(statements) and number - last < 40:
        said = statements[number].text
        _, body = words(said)
        body = body.strip("│| \t")
        if found := _FRAME.match(said) or _NATIVE_FRAME.match(said):
            frames.append(Frame(found[1], found[2], found[3] or ""))
            last = number
        elif "Traceback (most recent call last)" in said:
            break
        else:
            head = _HEAD.fullmatch(body)
            indented = said[:1] in " \t" and statements[last].text[:1] in " \t"
            # The first line after a frame is its code, unless it can be nothing else.
            if head is None and number > last + 1 and not indented:
                head = _ANY_HEAD.fullmatch(body)
            if head is not None and not (indented and number == last + 1 and not head[2]):
                text, end = _continued(statements, number, body)
                level = 1 if ignored else 3
                return Fault(begin, number, statements[number], text, level, tuple(frames)), end
        number += 1
    if not frames:
        return None, begin + 1
    # Cut short, or a native crash that lists frames: the last frame is all there is.
    text = statements[last].text.strip()
    return Fault(begin, last, statements[last], text, 1, tuple(frames)), last + 1


def _continued(statements: Sequence[Statement], number: int, head: str) -> tuple[str, int]:
    """An exception's message, with the lines that go on where the first one does not end."""
    lines, end = [head], number + 1
    while end < len(statements) and len(lines) < 7:
        said = statements[end].text
        level, body = words(said)
        if level or _begins(said) or not (lines[-1].rstrip().endswith(":") or len(lines) > 1):
            break
        if not body.strip() or body != said.lstrip():
            break
        lines.append(body.strip())
        end += 1
    return " ".join(lines), end


def _line(statements: Sequence[Statement], number: int) -> Fault | None:
    """What one line reports, or None."""
    statement = statements[number]
    said, service = statement.text, statement.kind != "log"
    low = said.lower()
    if not service and not any(word in low for word in _SMELL):
        return None
    level, body = words(said)
    body = _OUTER.sub("", body.strip("│╭╰─ \t").strip())
    signal, head = _SIGNAL.search(body), _HEAD.fullmatch(body)
    if GOES_ON.search(said) or (level in ("INFO", "DEBUG", "NOTICE", "TRACE") and not signal):
        return None
    if _IGNORED.search(said):
        return None
    text, frames = body, tuple[Frame, ...]()
    if level.startswith("W"):
        weight = 1
    elif head is not None and (head[2] or "." in head[1] or head[1][:1].isupper()):
        text, weight = _continued(statements, number, body)[0], 3
    elif signal:
        weight = 3
        after = [_NATIVE_FRAME.match(s.text) for s in statements[number + 1 : number + 8]]
        frames = tuple(Frame(f[1], f[2], f[3]) for f in after if f)
    elif level in ("ERROR", "ERR", "FATAL", "CRITICAL", "SEVERE", "E", "F") or _TOOL.search(body):
        weight = 2
    elif service or _WORDS.search(said):
        weight = 2 if service else 1
    else:
        return None
    if body.startswith("terminate called") and number + 1 < len(statements):
        text = f"{body} {statements[number + 1].text.strip()}"
    return Fault(number, number, statement, text, weight, frames)


def good_steps(statements: Sequence[Statement]) -> Iterator[int]:
    """Where a job says that it is at work, or done."""
    for number, statement in enumerate(statements):
        if statement.kind == "log" and GOES_ON.search(statement.text):
            yield number
