"""Ranks what could have made a job fail: known messages and structure, the earliest cause first."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from splatgate.diagnose import checks, histories, symptoms
from splatgate.diagnose.bundle import BAD_ENDS, Bundle, Statement
from splatgate.evidence import BadInput
from splatgate.paths import ROOT
from splatgate.proof.catalogue import load as load_faults

SIGNATURES = Path(__file__).with_name("signatures.toml")
#: How many lines are quoted for one explanation.
QUOTED = 5
#: "names" a mechanism before what only "points" to a line of the checklist, before what only says
#: that the job is "mute": no cause, and itself a failure of reporting.
STRENGTHS = ("names", "points", "mute")
#: What a job says that is at work, or done: what it said before has not ended it.
_GOES_ON = re.compile(
    r"(?i)\b(step|iter(ation)?|epoch)s?\W{0,3}\d+.*\b(loss|l1|psnr|it/s|it_per_s|done)\b|"
    r"\b(training|optimi[sz]ation) (is )?(complete|finished|done)|"
    r"\b(saved|wrote|written|exported)\b.{0,60}\.ply\b"
)


@dataclass(frozen=True)
class Signature:
    """A message by which a mechanism is known (``signatures.toml``, ``fault.toml``)."""

    item: str
    pattern: str
    cause: str
    remedy: str
    source: str
    strength: str = "names"
    kinds: tuple[str, ...] = ("log", "reason", "status", "history")
    #: Also looked for where every service says that all went well.
    quiet: bool = False

    @functools.cached_property
    def search(self) -> re.Pattern[str]:
        """The compiled pattern."""
        return re.compile(self.pattern)


@dataclass(frozen=True)
class Quote:
    """A line of the evidence and where it stands."""

    source: str
    line: str


@dataclass(frozen=True)
class Explanation:
    """One line of the checklist that may explain the failure."""

    item: str
    cause: str
    remedy: str
    evidence: tuple[Quote, ...]
    strength: str = "names"
    #: Where the mechanism is known from: known failures, the contract, an upstream issue.
    known: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """``diagnose --json``, without what is unusual."""

    ranked: tuple[Explanation, ...]
    #: Nothing known explains it. Also true where nothing is wrong.
    unknown: bool
    failed: bool
    #: The last words of a failure that nothing known explains.
    last_words: tuple[Quote, ...] = field(default=())


@functools.cache
def signatures() -> tuple[Signature, ...]:
    """Every known message: of the faults' own folders first, then the general ones.

    Raises:
        BadInput: a pattern does not compile.
    """
    rows = tomllib.loads(SIGNATURES.read_text())["signature"]
    general = [msgspec.convert(dict(row), Signature) for row in rows]
    found = [*_of_faults(ROOT / "tests" / "faults"), *general]
    for signature in found:
        if signature.strength not in STRENGTHS:
            raise BadInput(f"{signature.item}: strength {signature.strength!r}")
        try:
            signature.search  # noqa: B018 - compiles it
        except re.error as error:
            raise BadInput(f"{signature.item}: {signature.pattern!r}: {error}") from None
    return tuple(found)


def _of_faults(folder: Path) -> list[Signature]:
    if not folder.is_dir():
        return []
    return [
        Signature(f.item, f.signature, f.story + ".", f.remedy, f.origin)
        for f in load_faults(folder).values()
        # What a build says is not said by a job.
        if f.signature and f.item and f.kind != "build"
    ]


@dataclass(frozen=True)
class Hit:
    """A signature found in statement ``place`` (in order of time)."""

    signature: Signature
    place: int
    statement: Statement
    #: The signature's own, or weaker where the job went on after it.
    strength: str


def explain(bundle: Bundle) -> Diagnosis:
    """Rank the lines of the checklist that may explain a bundle.

    What a job said before it went on training weighs less, and nothing where no service says that
    anything failed.

    Messages count where a service says that something failed, and in what a job said that did not
    end well; a job that ended well is only asked for what passes in silence. A mechanism that is
    named comes before a line that is only pointed to, and the earlier before the later: in a
    traceback, a log and an execution alike the first is the cause of the next.
    """
    statements = bundle.statements()
    well = {job.name for job in bundle.jobs if job.status and job.status not in BAD_ENDS}
    failed = bundle.failed
    goes_on: dict[str, int] = {}
    for place, statement in enumerate(statements):
        if statement.kind == "log" and _GOES_ON.search(statement.text):
            goes_on[_origin(statement)] = place
    hits = []
    for place, statement in enumerate(statements):
        calm = (not failed and not bundle.silent) or (statement.stage in well)
        overcome = statement.kind == "log" and place < goes_on.get(_origin(statement), -1)
        for signature in signatures():
            if (calm or (overcome and bundle.silent)) and not signature.quiet:
                continue
            if statement.kind in signature.kinds and signature.search.search(statement.text):
                weak = overcome and not signature.quiet
                strength = "points" if weak else signature.strength
                hits.append(Hit(signature, place, statement, strength))
    found = _merged(hits)
    place = len(statements)
    structure = [*histories.findings(bundle), *symptoms.findings(bundle, statements)]
    for f in (*structure, *(checks.findings(bundle) if failed else ())):
        words = _quotes(f.evidence)
        found.append((place, Explanation(f.item, f.cause, f.remedy, words, f.strength, f.known)))
    ranked = _ranked(found)
    unknown = all(e.strength == "mute" for e in ranked)
    words = last_words(statements) if unknown and failed else ()
    return Diagnosis(tuple(ranked), unknown, failed, words)


def _origin(statement: Statement) -> str:
    """The stream or file that a statement comes from."""
    return statement.source.rpartition(":")[0] + statement.stage


def _quotes(statements: Iterable[Statement]) -> tuple[Quote, ...]:
    return tuple(Quote(s.source, s.text.strip()[:400]) for s in statements)[:QUOTED]


def _merged(hits: Sequence[Hit]) -> list[tuple[int, Explanation]]:
    """One explanation for each signature, at the place of its first hit."""
    by: dict[Signature, list[Hit]] = {}
    for hit in hits:
        by.setdefault(hit.signature, []).append(hit)
    for found in by.values():
        found.sort(key=lambda hit: STRENGTHS.index(hit.strength))
    return [
        (
            found[0].place,
            Explanation(
                signature.item,
                signature.cause,
                signature.remedy,
                _quotes(hit.statement for hit in found),
                found[0].strength,
                signature.source,
            ),
        )
        for signature, found in by.items()
    ]


def _ranked(found: list[tuple[int, Explanation]]) -> list[Explanation]:
    """Strongest and earliest first, one explanation for each item."""
    order = sorted(found, key=lambda entry: (STRENGTHS.index(entry[1].strength), entry[0]))
    best: dict[str, Explanation] = {}
    for _, explanation in order:
        best.setdefault(explanation.item, explanation)
    return list(best.values())


#: A line that says why something ended.
_WORDS = re.compile(r"(?i)\b(\w*(error|exception|failure)\b|fatal|panic|abort|killed|traceback)")


def last_words(statements: Sequence[Statement]) -> tuple[Quote, ...]:
    """What was said last of a failure: the failure texts, and the last lines that speak of one."""
    reasons = [s for s in statements if s.kind in ("reason", "history")]
    lines = [s for s in statements if s.kind == "log"]
    loud = [s for s in lines if _WORDS.search(s.text)][-QUOTED:]
    return _quotes([*reasons[:2], *(loud or lines[-QUOTED:])])
