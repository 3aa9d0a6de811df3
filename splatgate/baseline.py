"""One run held against a known good one: what newly fails, newly passes, is slower, is larger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from splatgate.record import Baseline, Change, Record, State

#: Two runs of one job on one machine, with nothing else on it, differ by less (measured: a tenth).
SLOWER = 1.25
#: A rebuild with other patch versions stays within this.
LARGER = 1.05
#: Times below are start-up and noise (seconds).
SHORTEST = 5.0


def compare(before: Record, now: Record) -> Baseline:
    """Hold ``now`` against ``before``.

    Jobs are compared where both ran the same request on the same data (their key), and times only
    where both saw them on the same kind of machine. What was not run now is neither failing nor
    lost.
    """
    then = {check.node: check.state for check in before.checks}
    failing, passing, lost = [], [], []
    for check in now.checks:
        was = then.get(check.node)
        if check.state == State.FAILED and was != State.FAILED:
            failing.append(check.node)
        elif check.state == State.PASSED and was in (State.FAILED, State.BLOCKED):
            passing.append(check.node)
        elif was == State.PASSED and check.state != State.PASSED and check.reason != "not run":
            lost.append(check.node)
    notes = []
    machines = [(r.machine.cpus, r.machine.gpu, r.machine.engine) for r in (before, now)]
    if machines[0] != machines[1]:
        notes.append(f"times not compared: then on {machines[0]}, now on {machines[1]}")
    seconds = [{j.key: j.seconds for j in r.jobs if j.status == "Completed"} for r in (before, now)]
    sizes = [{j.key: float(j.bytes) for j in r.jobs} for r in (before, now)]
    for record, found in zip((before, now), sizes, strict=True):
        found["image"] = float(record.image.bytes or 0)
    if missing := sorted(seconds[0].keys() - {job.key for job in now.jobs}):
        notes.append(f"jobs of the baseline that did not run now: {', '.join(missing)}")
    slower = (
        ()
        if machines[0] != machines[1]
        else tuple(_rises(seconds[0], seconds[1], SLOWER, SHORTEST))
    )
    return Baseline(
        run=before.run,
        image_id=before.image.image_id,
        newly_failing=tuple(failing),
        newly_passing=tuple(passing),
        lost=tuple(lost),
        slower=slower,
        larger=tuple(_rises(sizes[0], sizes[1], LARGER, 0.0)),
        notes=tuple(notes),
    )


def _rises(
    before: Mapping[str, float], now: Mapping[str, float], ratio: float, floor: float
) -> Iterator[Change]:
    """Figures that rose by more than ``ratio`` from something above nothing, to above ``floor``."""
    for name in sorted(before.keys() & now.keys()):
        if before[name] > 0 and now[name] > floor and now[name] > ratio * before[name]:
            yield Change(name, before[name], now[name])


def lines(found: Baseline) -> Iterator[tuple[str, bool]]:
    """The comparison for people: a line, and whether it is bad news."""
    name = (found.image_id or "").removeprefix("sha256:")[:12] or "unknown image"
    yield f"baseline: run {found.run or '?'} of {name}", False
    for title, nodes, bad in (
        ("newly failing", found.newly_failing, True),
        ("no answer any more", found.lost, True),
        ("newly passing", found.newly_passing, False),
    ):
        for node in nodes:
            yield f"  {title}: {node.rpartition('/')[2]}", bad
    for change in found.slower:
        yield (
            f"  slower: {change.name} {change.before:.0f} s, now {change.now:.0f} s "
            f"(× {change.ratio:.2f})",
            True,
        )
    for change in found.larger:
        yield (
            f"  larger: {change.name} {change.before / 1e6:.1f} MB, now {change.now / 1e6:.1f} MB "
            f"(× {change.ratio:.2f})",
            True,
        )
    for note in found.notes:
        yield f"  {note}", False
    same = not (found.newly_failing or found.lost or found.newly_passing)
    if same and not (found.slower or found.larger):
        yield "  no check changed, nothing is slower or larger", False
