"""The pytest plugin: items as markers, blocked and not verified as outcomes, the run record, the
summary.

Loaded by the root conftest.py. Imports no engine, no AWS and no torch, so that every lane collects
with what its own requirements bring.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splatgate import baseline, summary, verdict
from splatgate import checklist as checklists
from splatgate.checklist import CAUSES, LANES, SECTIONS, Checklist, Item
from splatgate.container.backends import NotRecorded
from splatgate.evidence import BadInput, Header, Origin, read, unwritable, write, write_bytes
from splatgate.evidence.missing import Blocked, CannotLook, NotVerified
from splatgate.evidence.text import plain
from splatgate.judge import options, session
from splatgate.judge.interrupts import INTERRUPTS, held
from splatgate.paths import ROOT
from splatgate.record import Check, Record, State, fingerprint, junit, sealed, suite
from splatgate.sources.run import Run

#: Modules of fixtures, each a plain function.
FIXTURES = ("evidence", "image", "jobs", "gpu")
CHECK = pytest.StashKey[Check]()
#: Exit statuses of pytest after which not every check has run.
ENDED_EARLY = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
#: What pytest is told is a skip: neither a pass nor a verdict.
NO_VERDICT = (Blocked, CannotLook, NotVerified, NotRecorded)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say what is judged, and through which door."""
    group = parser.getgroup("splatgate", "the image under judgement")
    options.add(group.addoption)
    group.addoption("--process", action="store_true", help="run image/ here, without an engine")
    group.addoption("--layers", action="store_true", help="read the image's layers, run nothing")


def pytest_configure(config: pytest.Config) -> None:
    """Register the items as markers, so that ``pytest --markers`` prints the guide."""
    checklist = checklists.load()
    if own := config.getoption("--checklist"):
        try:
            checklist = checklists.extended(checklist, config.invocation_params.dir / own)
        except BadInput as error:
            raise pytest.UsageError(f"--checklist {error}") from None

    def marker(line: str) -> None:
        config.addinivalue_line("markers", line)

    for item in checklist.item:
        marker(f"{item.marker}: {item.sentence}")
    for section, title in SECTIONS.items():
        marker(f"{section}: {title}, all its lines")
    for cause, title in CAUSES.items():
        marker(f"cause_{cause.replace('-', '_')}: {title} (a root cause of the guide)")
    marker("should: good practice, printed, never decisive")
    marker("needs(*checks): checks whose failure explains this one's")
    if is_asked(config):
        # After all other plugins: testinfra has a `host` of its own, which is this machine.
        for name in FIXTURES:
            config.pluginmanager.import_plugin(f"splatgate.judge.fixtures.{name}")
        config.pluginmanager.register(Judge(config, checklist), "splatgate-judge")


def is_asked(config: pytest.Config) -> bool:
    """Whether this run judges an image: where the plugin is installed, other runs load it too."""
    names = ("--image", "--evidence", "--process", "--live")
    return config.rootpath == ROOT or any(config.getoption(name) for name in names)


class Judge:
    """Follows one run: what each check claims, what became of it, and the record of them all."""

    def __init__(self, config: pytest.Config, checklist: Checklist) -> None:
        self.config = config
        self.checklist = checklist
        self.checks: dict[str, Check] = {}
        self.record: Record | None = None
        #: Why there is no record, although there should be one.
        self.problem = ""
        #: Whether checks of the files collected were left out.
        self.selected = any("::" in argument for argument in getattr(config, "args", ()))
        self.started = time.monotonic()
        self.worker = hasattr(config, "workerinput")
        self.run = Run.of(config)
        self.folder = self.run.out
        self.before = known_good(config.getoption("--baseline"))
        # A plain kill would leave containers behind; as an interrupt it goes through the sweep.
        INTERRUPTS.install()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Hand the run to an xdist worker."""
        node.workerinput["splatgate"] = self.run.to_builtins()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Give each check its item, section, cause and lane.

        Raises:
            pytest.UsageError: a check without exactly one item, or in a lane that its item does not
            have.
        """
        if self.run.account is not None:
            self.keep_live(items)
        for item in items:
            lane = "live" if self.run.account else self.lane(item.path)
            if lane is None:
                continue
            names = [m.name for m in item.iter_markers() if m.name in self.checklist.by_marker]
            if not names and not item.path.is_relative_to(ROOT):
                continue
            if len(set(names)) != 1:
                raise pytest.UsageError(
                    f"{item.nodeid}: a check bears on one item, this one on {names or 'none'}"
                )
            line = self.checklist.by_marker[names[0]]
            if lane not in (*line.required, *line.extra):
                raise pytest.UsageError(f"{item.nodeid}: {line.id} has no lane {lane}")
            item.add_marker(line.section)
            item.add_marker(f"cause_{line.cause.replace('-', '_')}")
            needs = tuple(name for m in item.iter_markers("needs") for name in m.args)
            item.stash[CHECK] = Check(
                node=item.nodeid,
                item=line.id,
                level="should" if item.get_closest_marker("should") else "must",
                lane=lane,
                origin=origin(getattr(item, "fixturenames", ()), lane),
                needs=needs,
                reason="not run",
            )

    def lane(self, path: Path) -> str | None:
        """The lane of a test file: its folder under tests/. Of somebody's own check, the folder on
        its path that bears the name of a lane, else ``container``.
        """
        if not path.is_relative_to(ROOT):
            return next((part for part in reversed(path.parts) if part in LANES), LANES[0])
        parts = path.relative_to(ROOT).parts
        return parts[1] if len(parts) > 2 and parts[0] == "tests" and parts[1] in LANES else None

    def keep_live(self, items: list[pytest.Item]) -> None:
        """Keep the checks of lane ``live``: of its lines, those that take the job."""
        known = self.checklist.by_marker
        kept = [
            item
            for item in items
            if any(
                is_live(getattr(item, "fixturenames", ()), known[mark.name])
                for mark in item.iter_markers()
                if mark.name in known
            )
        ]
        self.config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Note that this run is a part."""
        self.selected = True

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """List what will run, so that a check which never did is in the record too."""
        checks = [item.stash[CHECK] for item in session.items if CHECK in item.stash]
        if checks and self.worker:
            # A disk that takes no list takes no record either, which is where it is told.
            with suppress(BadInput):
                write(self.run.catalog, (checks, self.selected))
        self.checks.update((check.node, check) for check in checks)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tell verdicts from what is none, and attach the check to its report."""
        report = yield
        if CHECK not in item.stash:
            return report
        check = outcome(item.stash[CHECK], report, call.excinfo.value if call.excinfo else None)
        check = replace(
            check,
            seconds=round(check.seconds + report.duration, 3),
            supporting=self.is_supporting(),
        )
        item.stash[CHECK] = check
        if call.excinfo and isinstance(call.excinfo.value, NO_VERDICT):
            report.outcome = "skipped"
            report.longrepr = (
                str(item.path),
                item.location[1] or 0,
                f"{check.state}: {check.reason}",
            )
        report.splatgate = msgspec.to_builtins(check)  # type: ignore[attr-defined]
        return report

    def is_supporting(self) -> bool:
        """Whether the evidence comes from the process runtime."""
        path = self.run.folder / "evidence.json"
        if not path.exists():
            return False
        return read(path, Header).extra.get("runtime") == "process"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect outcomes; in the controller these come from every worker.

        Raises:
            KeyboardInterrupt: once more, where something swallowed the first.
        """
        if INTERRUPTS.seen and not INTERRUPTS.ending:
            raise KeyboardInterrupt
        if (data := getattr(report, "splatgate", None)) is not None:
            self.checks[report.nodeid] = msgspec.convert(data, Check)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self) -> Generator[None]:
        """Start the workers; an interrupt waits, so that none of them dies half started."""
        with held():
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None]:
        """Close the run once all others have: their words, and then ours."""
        INTERRUPTS.ending = True
        try:
            return (yield)
        finally:
            if self.worker:
                # xdist ends its workers by a signal.
                INTERRUPTS.release()
            else:
                self.collect()
                # A list of checks (--collect-only) judges nothing: the last record stays.
                if self.checks and not self.config.option.collectonly:
                    self.finish(interrupted=exitstatus in ENDED_EARLY)
                    self.tell(session)
                else:
                    self.run.discard()

    def tell(self, session: pytest.Session) -> None:
        """Tell a tired person how it stands."""
        out = self.config.pluginmanager.getplugin("terminalreporter")
        if not self.record or self.record.interrupted:
            session.exitstatus = verdict.EXIT_NO_JUDGEMENT
        if self.record:
            summary.write(out, self.record, self.checklist, self.folder, self.again)
        else:
            out.ensure_newline()
            out.write_line(f"splatgate: no record: {self.problem}", red=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Say where it was interrupted, and not the way there: to lay that out takes seconds."""
        excinfo.traceback = excinfo.traceback.filter(excinfo)[-1:] or excinfo.traceback

    def collect(self) -> None:
        """Read what the workers collected."""
        if self.run.catalog.exists():
            listed, self.selected = read(self.run.catalog, tuple[tuple[Check, ...], bool])
            self.checks = {c.node: c for c in listed} | self.checks
            self.run.catalog.unlink()

    def finish(self, *, interrupted: bool) -> None:
        """Sweep and write the record, or the one that is written anew as interrupted. What cannot
        be written is ``problem``, and there is no record.
        """
        try:
            if self.record:
                self.record = sealed(replace(self.record, interrupted=interrupted))
            else:
                self.record = self.made(interrupted=interrupted or INTERRUPTS.seen)
            # A signature is of an earlier run's evidence.
            (self.folder / "record.intoto.json").unlink(missing_ok=True)
            write(self.folder / "record.json", self.record)
            write_bytes(self.folder / "junit.xml", junit(self.record))
            self.run.discard()
        except (BadInput, OSError) as error:
            self.record = None
            self.problem = unwritable(error) if isinstance(error, OSError) else str(error)

    def made(self, *, interrupted: bool) -> Record:
        """The record of this run, its engine swept and its evidence published."""
        checks = verdict.settle(self.checks.values())
        states = verdict.items(self.checklist, checks)
        part = self.part(checks)
        lacking = part or interrupted or any(check.error for check in checks)
        self.folder = self.run.place(whole=not lacking)
        seen = session.close(self.run, self.folder, interrupted=interrupted)
        record = Record(
            image=seen.image,
            suite=suite(self.checklist.sha256),
            machine=seen.machine,
            items=states,
            checks=checks,
            jobs=seen.jobs,
            timings={**seen.timings, "total": round(time.monotonic() - self.started, 1)},
            leftovers=seen.leftovers,
            verdict=verdict.verdict(states),
            run=self.run.id,
            door=self.run.door,
            interrupted=interrupted,
            part=part,
            created=seen.created,
            evidence_folder=os.path.relpath(seen.folder, self.folder),
            evidence=fingerprint(seen.folder),
        )
        if self.before is not None:
            record = replace(record, baseline=baseline.compare(self.before, record))
        return sealed(record)

    def part(self, checks: Sequence[Check]) -> str:
        """What alone was judged; empty: everything was."""
        if not checks:
            return ""
        if self.run.quick:
            return "--quick"
        files = {ROOT / check.node.partition("::")[0] for check in checks}
        known = {lane: set((ROOT / "tests" / lane).glob("test_*.py")) for lane in LANES[:3]}
        if self.selected or any(found & files and found - files for found in known.values()):
            return f"{len(checks)} chosen checks"
        lanes = [lane for lane, found in known.items() if found & files]
        return "" if len(lanes) == len(known) else f"lane {' and '.join(lanes)}"

    @property
    def again(self) -> str:
        """The options of this run, for a command that repeats it."""
        process = ["--process"] if self.run.door == "process" else []
        return shlex.join([*options.passed_on(self.config.option), *process])


def is_live(asked: Collection[str], line: Item) -> bool:
    """Whether a check of a line is of lane ``live`` too: one that takes the job, among those that
    have the lane.
    """
    return "live" in line.extra and bool({"smoke", "trained"} & set(asked))


def origin(asked: Collection[str], lane: str) -> str:
    """Where the evidence of a check comes from, by the fixtures that it asks for."""
    if "pushed" in asked:
        return Origin.REGISTRY
    return {"container": Origin.IMAGE, "sagemaker": Origin.EMULATED}.get(lane, lane)


def known_good(path: str | None) -> Record | None:
    """The record to hold this run against.

    Raises:
        pytest.UsageError: it is none.
    """
    try:
        return read(Path(path), Record) if path else None
    except BadInput as error:
        raise pytest.UsageError(f"--baseline {error}") from None


def outcome(check: Check, report: pytest.TestReport, error: BaseException | None) -> Check:
    """A check after one phase. An assertion in the test itself is a verdict; any other exception is
    none.
    """
    if error is None:
        ran = report.when == "call"
        return replace(check, state=State.PASSED, reason="") if ran else check
    text = plain(str(error).partition("\nassert ")[0].strip()) or type(error).__name__
    if isinstance(error, Blocked):
        return replace(check, state=State.BLOCKED, blocked_by=error.by, reason=text)
    if isinstance(error, NotVerified | NotRecorded | pytest.skip.Exception):
        return replace(check, state=State.NOT_VERIFIED, reason=text)
    if isinstance(error, CannotLook):
        return replace(check, state=State.NOT_VERIFIED, error=True, reason=text)
    if report.when == "call" and isinstance(error, AssertionError | pytest.fail.Exception):
        return replace(check, state=State.FAILED, reason=text)
    reason = f"error in {report.when}: {type(error).__name__}: {text}"
    return replace(check, state=State.NOT_VERIFIED, error=True, reason=reason)
