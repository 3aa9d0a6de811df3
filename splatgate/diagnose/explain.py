"""Ranks what could have made a job fail, the earliest cause first; says what is not known."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from splatgate.diagnose import checks, histories, symptoms
from splatgate.diagnose.bundle import Bundle
from splatgate.diagnose.kinds import QUOTED, Explanation, Kind, classify, explained, kinds, quotes
from splatgate.diagnose.reader import QUIET, Fault
from splatgate.diagnose.stages import LastWords, Stage, last_words, stages_of

#: "names" a cause before what only "points" to a line of the checklist.
TIERS = {"names": 0, "suspects": 1, "points": 3}
#: Statements between a report and the end of its stage after which it is unlikely to have ended it.
FAR = 200
#: The last of the tiers by which findings are ranked: 0 a cause that is named, 1 the same long
#: before the end or where only the class is known, 2 and 3 what only points, 4 the other line that
#: it may be, 5 what the job got over.
OVERCOME = 5


@dataclass(frozen=True)
class Diagnosis:
    """What happened, as far as the bundle tells."""

    #: ``cause``: one is named; ``unknown``; ``well``: a service says so, and nothing contradicts.
    verdict: str
    ranked: tuple[Explanation, ...]
    last_words: LastWords = field(default_factory=LastWords)


def explain(bundle: Bundle) -> Diagnosis:
    """Rank the lines of the checklist that may explain a bundle.

    What a job said before it went on working weighs less, and what it said in a stage that ended
    well counts only where nothing followed. A cause that is named comes before a line that is only
    pointed to, and the earlier before the later: in a traceback, a log and an execution alike the
    first is the cause of the next.
    """
    statements = bundle.statements()
    stages = stages_of(bundle, statements)
    found: list[tuple[int, int, Explanation]] = []
    for stage in stages:
        found += _of_stage(bundle, stage)
    where = {id(s): place for place, s in enumerate(statements)}
    structure = [*histories.findings(bundle), *symptoms.findings(bundle, statements)]
    structure += checks.findings(bundle) if bundle.failed else []
    failures = {told.item for tier, _, told in found if tier <= 1}
    for f in structure:
        places = [where[id(s)] for s in f.evidence if id(s) in where]
        # What request or figures give away is the cause of the failure that follows from it.
        strength = "names" if failures & set(f.explains) else f.strength
        shown = "names" if strength == "names" else "points"
        at = min((s.at for s in f.evidence if s.at is not None), default=None)
        told = Explanation(f.item, f.cause, f.remedy, quotes(f.evidence), shown, "", f.stage, at)
        found.append((TIERS[strength], min(places, default=len(statements)), told))
    if any(tier == 0 for tier, _, _ in found):
        # What the job got over explains nothing beside what it did not.
        found = [entry for entry in found if entry[0] != OVERCOME]
    ranked = _ranked(found)
    named = any(e.strength == "names" for e in ranked)
    verdict = "cause" if named else "well" if bundle.well and not ranked else "unknown"
    return Diagnosis(verdict, tuple(ranked), last_words(bundle, stages))


def _of_stage(bundle: Bundle, stage: Stage) -> list[tuple[int, int, Explanation]]:
    """Tier, position and explanation of each thing wrong in a stage."""
    found = []
    ends = len(stage.statements)
    said_well = stage.well or (bundle.well and stage.job is None)
    told_of = [(fault, *classify(fault, stage.role)) for fault in stage.faults]
    for fault, kind, match in told_of:
        over = stage.over(fault)
        if said_well and (over or fault.level == 1 or not stage.ended(fault)):
            continue
        if kind is None or match is None or not kind.item:
            continue
        weak = kind.points or over or fault.level == 1 or (said_well and fault.level < 3)
        if fault.level == 1 and not over and _library_of(fault, told_of):
            weak = False
        told = explained(kind, match, fault, stage.role, stage.job, stage.name)
        told = _held_instead(bundle, told)
        tier = (2 if weak else 0) + (kind.general or ends - fault.place > FAR)
        tier = OVERCOME if over else tier
        told = replace(told, strength="points") if weak else told
        place = stage.places[fault.begin]
        found.append((tier, place, told))
        if kind.also:
            remedy = f"If it is not {told.item}: {told.remedy}"
            other = replace(told, item=kind.also, remedy=remedy, strength="points")
            found.append((max(tier, OVERCOME - 1), place, other))
    return found + _quiet(stage, said_well)


def _held_instead(bundle: Bundle, told: Explanation) -> Explanation:
    """The explanation of a file that is missing, with what a listing holds under a like name."""
    name = PurePosixPath(told.object.lower())
    keys = [key for key, _ in bundle.artefacts or ()]
    if not name.suffix or any(key.lower().endswith(f"/{name.name}") for key in keys):
        return told
    like = [key for key in keys if PurePosixPath(key.lower()).stem == name.stem]
    return (
        replace(told, cause=f"{told.cause} The listing holds {', '.join(like[:3])}.")
        if like
        else told
    )


def _library_of(warning: Fault, told_of: Iterable[tuple[Fault, Kind | None, object]]) -> bool:
    """Whether a warning names the library in which something then broke that says no more."""
    text = warning.text.lower()
    for fault, kind, _ in told_of:
        if kind is not None and kind.general and fault.place > warning.place:
            frames = " ".join(frame.path for frame in fault.frames[-3:])
            names = re.findall(r"-packages/(\w{4,})", frames)
            if any(name.lower() in text for name in names):
                return True
    return False


def _quiet(stage: Stage, said_well: bool) -> list[tuple[int, int, Explanation]]:
    """What passes in silence."""
    found = []
    rows = [kind for kind in kinds() if kind.quiet]
    lines = [
        (place, s)
        for place, s in zip(stage.places, stage.statements, strict=True)
        if s.kind == "log" and any(word in s.text.lower() for word in QUIET)
    ]
    cached = any("no work to do" in s.text for s in stage.statements)
    for kind in rows:
        hits = [(place, s, m) for place, s in lines if (m := kind.search.search(s.text))]
        if hits and not (cached and kind.item == "runtime.cuda"):
            place, s, match = hits[0]
            fault = Fault(0, 0, s, s.text.strip(), 2)
            told = explained(kind, match, fault, stage.role, stage.job, stage.name)
            # Where the job failed, a slow or an odd start is no cause of it; a broken model is.
            named = said_well or kind.item.startswith("production.")
            told = told if named else replace(told, strength="points")
            found.append((0 if named else TIERS["suspects"], place, told))
    return found


def _ranked(found: list[tuple[int, int, Explanation]]) -> list[Explanation]:
    """Strongest and earliest first, one explanation for each line of the checklist."""
    best: dict[str, Explanation] = {}
    for _, _, told in sorted(found, key=lambda entry: entry[:2]):
        if told.item not in best:
            best[told.item] = told
            continue
        old = best[told.item]
        lines = tuple(dict.fromkeys((*old.evidence, *told.evidence)))[:QUOTED]
        # The same thing told twice: the line that names its object explains more.
        better = not old.object and told.object and told.strength == old.strength
        best[told.item] = replace(told if better else old, evidence=lines)
    return list(best.values())
