"""The pytest plugin: items as markers, blocked and not verified as outcomes, the run record, the
summary.

Loaded by the root conftest.py. Imports no engine, no AWS and no torch, so that every lane collects
with what its own requirements bring.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splatgate import baseline, summary, verdict
from splatgate import checklist as checklists
from splatgate.checklist import CAUSES, LANES, SECTIONS, Checklist
from splatgate.container import sweep
from splatgate.container.backends import NotRecorded
from splatgate.evidence import BadInput, Header, Origin, read, write
from splatgate.evidence.missing import Blocked, CannotLook, NotVerified
from splatgate.evidence.text import plain
from splatgate.judge import options, session
from splatgate.paths import ROOT
from splatgate.record import Check, Record, State, fingerprint, sealed, suite
from splatgate.sources.run import RUNS, Run

CHECK = pytest.StashKey[Check]()
#: What pytest is told is a skip: neither a pass nor a verdict.
NO_VERDICT = (Blocked, CannotLook, NotVerified, NotRecorded)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say what is judged, and through which door."""
    group = parser.getgroup("splatgate", "the image under judgement")
    options.add(group.addoption)
    group.addoption("--process", action="store_true", help="run image/ here, without an engine")
    group.addoption("--live", action="store_true", help="also look at a real AWS account")


def pytest_configure(config: pytest.Config) -> None:
    """Register the items as markers, so that ``pytest --markers`` prints the guide."""
    checklist = checklists.load()

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
    config.pluginmanager.register(Judge(config, checklist), "splatgate-judge")


class Judge:
    """Follows one run: what each check claims, what became of it, and the record of them all."""

    def __init__(self, config: pytest.Config, checklist: Checklist) -> None:
        self.config = config
        self.checklist = checklist
        self.checks: dict[str, Check] = {}
        self.record: Record | None = None
        self.started = time.monotonic()
        self.worker = hasattr(config, "workerinput")
        self.run = Run.of(config)
        self.before = known_good(config.getoption("--baseline"))
        if not self.worker:
            sweep.sweep_folders(self.run.out / RUNS, "")
            # A plain kill would leave containers behind; as an interrupt it goes through the sweep.
            # SIGINT too: a shell's background job starts with it ignored.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.default_int_handler)

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
        for item in items:
            lane = self.lane(item.path)
            if lane is None:
                continue
            names = [m.name for m in item.iter_markers() if m.name in self.checklist.by_marker]
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
        """The lane of a test file: its folder under tests/."""
        parts = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else ()
        return parts[1] if len(parts) > 2 and parts[0] == "tests" and parts[1] in LANES else None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """List what will run, so that a check which never did is in the record too."""
        checks = [item.stash[CHECK] for item in session.items if CHECK in item.stash]
        if checks and self.worker:
            write(self.run.catalog, checks)
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
        """Collect outcomes; in the controller these come from every worker."""
        if (data := getattr(report, "splatgate", None)) is not None:
            self.checks[report.nodeid] = msgspec.convert(data, Check)

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        """Close the run: sweep, write the record, tell a tired person how it stands."""
        if self.worker:
            return
        if self.run.catalog.exists():
            listed = read(self.run.catalog, tuple[Check, ...])
            self.checks = {c.node: c for c in listed} | self.checks
            self.run.catalog.unlink()
        # A list of checks (--collect-only) judges nothing: the last record stays.
        if not self.checks or self.config.option.collectonly:
            self.run.discard()
            return
        checks = verdict.settle(self.checks.values())
        states = verdict.items(self.checklist, checks)
        seen = session.close(self.run)
        self.record = Record(
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
            interrupted=exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR),
            created=seen.created,
            evidence_folder=os.path.relpath(seen.folder, self.run.out),
            evidence=fingerprint(seen.folder),
        )
        if self.before is not None:
            compared = baseline.compare(self.before, self.record)
            self.record = replace(self.record, baseline=compared)
        self.record = sealed(self.record)
        # A signature is of an earlier run's evidence.
        (self.run.out / "record.intoto.json").unlink(missing_ok=True)
        write(self.run.out / "record.json", self.record)
        summary.write(terminalreporter, self.record, self.checklist, self.run.out)


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
