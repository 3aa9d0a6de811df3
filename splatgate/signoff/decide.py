"""From records to a sign-off. Pure: it reads no file and asks nobody."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date

from splatgate import verdict
from splatgate.checklist import CAUSES, LANES, SECTIONS, Checklist, Item
from splatgate.evidence import Origin
from splatgate.record import Check, State, Suite
from splatgate.signoff.document import (
    Bound,
    Change,
    Compared,
    Line,
    Missing,
    Signoff,
    Source,
    Unseen,
    Waived,
)
from splatgate.signoff.measures import Measured
from splatgate.signoff.policy import LONGEST, SOON_DAYS, Named
from splatgate.signoff.validation import Refusal, Taken

#: Exit status of a gate whose evidence is missing or refused.
EXIT_MISSING = 2
#: Of two answers to one check the graver stands: machines that disagree are a doubt.
GRAVITY = (State.FAILED, State.BLOCKED, State.PASSED, State.NOT_VERIFIED)
#: How the checks of a lane are run, given the image's reference.
COMMANDS = {
    "container": "python -m splatgate judge --image {ref} --lane container",
    "sagemaker": "python -m splatgate judge --image {ref} --lane container --lane sagemaker",
    "gpu": "python -m splatgate judge --image {ref} --lane gpu",
    "live": "python -m splatgate judge --live --role ARN --output s3://… --ceiling USD",
}


def _command(
    lane: str, origin: str, ref: str, gpus: Sequence[str] = (), build: bool = False
) -> str:
    """How what a lane lacks would be seen; a registry is asked only when it is named, and of a
    ``build`` elsewhere no more is known than is given.
    """
    asked = " --pushed HOST/NAME:TAG" if origin == Origin.REGISTRY and "@" not in ref else ""
    if build and origin != Origin.REGISTRY:
        asked = " --build-log FILE --dockerfile FILE --lock FILE"
    which = f", a {' or '.join(gpus)}" if gpus else ""
    where = f"  # where an engine has a GPU{which}" if lane == "gpu" else ""
    return COMMANDS[lane].format(ref=ref) + asked + where


def merge(records: Iterable[Taken], catalogue: Iterable[Check]) -> tuple[Check, ...]:
    """One answer to each check. What the catalogue lists and no record ran is not verified."""
    found: dict[tuple[str, str, bool], Check] = {}
    for taken in records:
        for check in taken.record.checks:
            key = (check.node, check.lane, check.supporting)
            known = found.get(key)
            if known is None or GRAVITY.index(check.state) < GRAVITY.index(known.state):
                found[key] = check
    counted = {(node, lane) for node, lane, supporting in found if not supporting}
    missing = [c for c in catalogue if (c.node, c.lane) not in counted]
    kept = [c for c in found.values() if not c.supporting or c.state != State.NOT_VERIFIED]
    return verdict.settle([*kept, *missing])


def lines(checks: Sequence[Check], named: Named, checklist: Checklist) -> tuple[Line, ...]:
    """Every line of the checklist, those that the policy requires counted by its lanes."""
    cells, found = named.cells(checklist), []
    decisive = [replace(c, level="must") if c.name in named.policy.promotes else c for c in checks]
    for item in checklist.item:
        mine = tuple(c for c in decisive if c.item == item.id)
        required = cells.get(item.id, ())
        # Judged by the lanes of the policy; what else was seen is shown, and a failure counts.
        narrowed = replace(item, required=required, extra=_others(item, required))
        state = verdict.item_state(narrowed, mine)
        found.append(
            Line(
                id=item.id,
                section=SECTIONS[item.section],
                sentence=item.sentence,
                required=required,
                state=state.state
                if required or state.state == State.FAILED
                else _seen(state.lanes),
                lanes=state.lanes,
                remedy=item.remedy,
                why=item.why,
                cause=CAUSES[item.cause],
                ours=item.ours,
                checks=mine,
                unasked=tuple(lane for lane in item.required if lane not in required),
            )
        )
    return tuple(found)


def _others(item: Item, required: Sequence[str]) -> tuple[str, ...]:
    return tuple(lane for lane in (*item.required, *item.extra) if lane not in required)


def _seen(lanes: Mapping[str, State]) -> State:
    """State of a line that the policy does not require: held where any lane holds it."""
    return State.HELD if State.HELD in lanes.values() else State.NOT_VERIFIED


def missing(
    found: Sequence[Line], checklist: Checklist, ref: str, gpus: Sequence[str]
) -> list[Missing]:
    """Required cells without passed evidence. ``gpus`` are those on which the gpu lane counts."""
    gaps = []
    every = [c for line in found for c in line.checks if not c.supporting]
    on_gpu = any(c.lane == "gpu" and c.state in (State.PASSED, State.FAILED) for c in every)
    for line in found:
        for lane in line.required:
            if line.lanes[lane] in (State.HELD, State.FAILED):
                continue
            mine = [c for c in line.checks if c.lane == lane and c.state != State.PASSED]
            beside = any(c.supporting for c in line.checks if c.lane == lane)
            origin = ""
            if f"{line.id}/{lane}" in checklist.open:
                reason = "no check yet"
            elif beside:
                reason = "seen outside the image only"
            elif lane == "gpu" and not on_gpu:
                # What a machine without a GPU says of its checks helps nobody here.
                reason = "not run on a GPU in the image"
            elif mine:
                first = next((c for c in mine if c.state == State.BLOCKED), mine[0])
                by = (first.blocked_by or "").rpartition("::")[2]
                reason = f"blocked by {by}" if by else first.reason.partition("\n")[0] or "not run"
                origin = first.origin
            else:
                reason = "not run"
            build = line.id.startswith("build.")
            gaps.append(Missing(line.id, lane, reason, _command(lane, origin, ref, gpus, build)))
    return gaps


def waivers(found: Sequence[Line], named: Named, today: date) -> list[Waived]:
    """The policy's waivers that have not ended and do not last too long."""
    states = {line.id: line.state for line in found}
    return [
        Waived(
            item=w.item,
            reason=w.reason,
            owner=w.owner,
            expires=w.expires,
            days_left=(w.expires - today).days,
            state=states[w.item],
            soon=(w.expires - today).days <= SOON_DAYS,
        )
        for w in named.policy.waiver
        if 0 <= (w.expires - today).days <= LONGEST
    ]


def bounds(measured: Sequence[Measured], named: Named) -> list[Bound]:
    """The policy's thresholds against what each folder of evidence measured: of two values the one
    that is out of bounds stands.
    """
    found = []
    for threshold in named.policy.threshold:
        values = [m.values[threshold.measure] for m in measured if threshold.measure in m.values]
        value = min(values, key=threshold.holds, default=None)
        found.append(Bound(threshold, value, None if value is None else threshold.holds(value)))
    return found


def weigh(
    found: Sequence[Line],
    gaps: Sequence[Missing],
    waived: Sequence[Waived],
    bound: Sequence[Bound],
    refused: Sequence[Refusal],
) -> tuple[str, str, int]:
    """Verdict, one sentence why, and exit status; counted from the list of what is required."""
    accepted = {w.item for w in waived}
    required = [line for line in found if line.required or line.state == State.FAILED]
    failed = [line for line in required if line.state == State.FAILED and line.id not in accepted]
    broken = [b for b in bound if b.holds is False]
    absent = [gap for gap in gaps if gap.item not in accepted]
    unmeasured = [b for b in bound if b.holds is None]
    if failed or broken:
        if failed:
            check = next(
                c for c in failed[0].checks if c.state == State.FAILED and c.level == "must"
            )
            first = f"“{failed[0].sentence}” fails: {check.reason.partition(chr(10))[0]}"
        else:
            first = f"{broken[0].threshold.measure} is out of bounds: {broken[0].threshold.why}"
        more = len(failed) + len(broken) - 1
        why = first + (f" ({more} more)" if more else "")
        return verdict.NON_CONFORMANT, why, verdict.EXIT_FAILED
    if refused or absent or unmeasured:
        parts = []
        # Where a refusal leaves nothing, to list all that is missing says no more.
        if absent and any(line.state == State.HELD for line in required):
            items = list(dict.fromkeys(gap.item for gap in absent))
            lanes = list(dict.fromkeys(gap.lane for gap in absent))
            listed = ", ".join(items[:6]) + (f" and {len(items) - 6} more" if items[6:] else "")
            parts.append(f"required evidence of lane {', '.join(lanes)} is missing for {listed}")
        if unmeasured:
            parts.append(f"{unmeasured[0].threshold.measure} was not measured")
        if refused:
            others = f" ({len(refused) - 1} more)" if refused[1:] else ""
            doubt = next((r for r in refused if r.code != "supporting-only"), None)
            one = doubt or refused[0]
            said = f"{one.file} is refused ({one.code}): {one.reason}{others}"
            # A doubt comes before what is missing; support that does not count, after it.
            parts.insert(0 if doubt else len(parts), said)
        return verdict.PARTIAL, "Nothing failed, but " + "; ".join(parts), EXIT_MISSING
    held = sum(line.state == State.HELD for line in required)
    used = sum(w.state != State.HELD for w in waived)
    asked = {lane for line in found for lane in line.required}
    lanes = [lane for lane in LANES[:3] if lane not in asked]
    why = f"All {held} required lines hold" + (f", {used} more are waived" if used else "")
    why += f"; this policy asks nothing of lane {', '.join(lanes)}" if lanes else ""
    return verdict.CONFORMANT, why, verdict.EXIT_OK


def tally(found: Sequence[Line]) -> dict[str, int]:
    """Required lines by their state; a line that fails counts whether it is required or not."""
    required = [line for line in found if line.required or line.state == State.FAILED]
    states = (State.HELD, State.FAILED, State.BLOCKED, State.NOT_VERIFIED)
    return {state.value: sum(line.state == state for line in required) for state in states}


def source(taken: Taken) -> Source:
    """What is told of a folder of evidence; how it was made, its record tells."""
    record, told = taken.record, taken.told
    counted = [c for c in record.checks if c.state in (State.PASSED, State.FAILED, State.BLOCKED)]
    return Source(
        file=taken.file,
        sha256=taken.sha256,
        run=record.run,
        created=record.created,
        door=told.door if told else record.door,
        machine=record.machine,
        suite=taken.looker or Suite("", None, None, ""),
        lanes=tuple(lane for lane in LANES if any(c.lane == lane for c in counted)),
        origins=tuple(sorted({c.origin for c in counted})),
        supporting=taken.process,
        signed_by=taken.signed.key if taken.signed else None,
        seconds=told.timings.get("total") if told and told.door == "live" else None,
    )


def never(
    sources: Sequence[Source], earlier: Sequence[Source], ref: str, lanes: Collection[str]
) -> list[Unseen]:
    """What no machine has shown, in these records or any in the store, by their origins. ``lanes``
    are those that have a check.
    """
    every = [*sources, *earlier]
    inside = {origin for s in every if not s.supporting for origin in s.origins}
    beside = {origin for s in every if s.supporting for origin in s.origins}
    told = {
        Origin.IMAGE: ("Looking into the image", "container"),
        Origin.EMULATED: ("A job on the emulated training host", "sagemaker"),
        Origin.REGISTRY: ("What a registry serves", "container"),
        Origin.GPU: ("Training on a GPU, in the image", "gpu"),
        Origin.LIVE: ("A job on SageMaker itself, in a real account", "live"),
    }
    found = []
    for origin, (what, lane) in told.items():
        if origin not in inside:
            only = "the trainer's source tree ran there, outside the image"
            why = only if origin in beside else "no record of any machine has this origin"
            if lane in lanes:
                found.append(Unseen(what, why, _command(lane, origin, ref)))
            else:
                found.append(Unseen(what, "no check looks there yet", ""))
    return found


def compare(now: Sequence[Line], measured: Measured, last: Signoff) -> Compared:
    """What changed since an earlier sign-off."""
    before = {line.id: line.state for line in last.lines}

    def turned(good: bool) -> tuple[str, ...]:
        held = State.HELD
        return tuple(
            line.id
            for line in now
            if line.id in before
            and (line.state == held) == good
            and (before[line.id] == held) != good
            and (good or line.required)
        )

    old, new = last.measured.packages, measured.packages
    return Compared(
        digest=last.manifest_digest or last.image.image_id or "",
        created=last.created,
        newly_failing=turned(False),
        newly_passing=turned(True),
        measures=tuple(
            Change(name, was, value, round(100 * (value - was) / was, 2) if was else None)
            for name, value in measured.values.items()
            if (was := last.measured.values.get(name)) is not None
        ),
        packages=tuple(
            (name, old.get(name, ""), new.get(name, ""))
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ),
    )
