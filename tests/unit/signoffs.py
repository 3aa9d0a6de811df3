"""Records for the tests of the sign-off: made of the recorded evidence, as `judge` would."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

from splatgate import verdict
from splatgate.checklist import load
from splatgate.evidence import Header, Job, Machine, Origin, read, write
from splatgate.paths import ROOT
from splatgate.record import ImageFacts, Record, State, fingerprint, sealed
from splatgate.signoff import cli

GOOD = ROOT / "tests" / "evidence" / "good"
DIGEST = "sha256:" + "d" * 64
PAST = "2020-01-01T00:00:00+00:00"


def judged(out):
    """The recorded evidence judged again, in a folder of its own with its record."""
    subprocess.run(
        [sys.executable, "-m", "splatgate", "judge", "--evidence", str(GOOD), "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    shutil.copytree(
        GOOD, out / "evidence", ignore=shutil.ignore_patterns("record.json", "registry.json")
    )
    record = read(out / "record.json", Record)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    clean = replace(record.suite, dirty=False, commit="c" * 40)
    image = replace(record.image, manifest_digest=DIGEST)
    rewrite(out, record, created=now, suite=clean, image=image)
    return out


def on_a_gpu_machine(run, out, gpu="NVIDIA H200, 9.0, 580.1"):
    """What `judge --lane gpu` leaves on a GPU machine without an engine, from a run's own job."""
    record, evidence = read(run / "record.json", Record), out / "evidence"
    facts = json.loads((run / "evidence" / "container" / "facts.json").read_text())
    (trained,) = (run / "evidence" / "jobs").glob("truth-*")
    folder = evidence / "jobs" / trained.name.replace("truth", "gpu")
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("compressed*"))
    job = read(folder / "job.json", Job)
    write(folder / "job.json", replace(job, key=folder.name, image_id="", origin=Origin.GPU))
    (evidence / "subject.toml").write_text(facts["subject"])
    machine = Machine(gpu=gpu)
    header = read(run / "evidence" / "evidence.json", Header)
    process = {"runtime": "process"}
    write(
        evidence / "evidence.json", replace(header, image_id=None, machine=machine, extra=process)
    )
    # The duration is of the declared instance: another GPU does not tell it.
    checks = tuple(
        replace(c, state=State.PASSED, reason="", supporting=True, origin="gpu")
        for c in record.checks
        if c.lane == "gpu" and c.item != "production.duration"
    )
    image = ImageFacts()
    return rewrite(out, record, run="gpu", image=image, machine=machine, checks=checks)


def rewrite(folder, record=None, **changes):
    """Change fields of a record and seal it anew, as a run that saw so would have."""
    record = replace(record or read(folder / "record.json", Record), **changes)
    record = replace(
        record,
        items=verdict.items(load(), record.checks),
        evidence_folder="evidence",
        evidence=fingerprint(folder / "evidence"),
    )
    write(folder / "record.json", sealed(record))
    return record


def with_states(record, states):
    """The checks of a record with the states of some, by name."""
    return tuple(
        replace(c, state=states[c.name], reason="told so") if c.name in states else c
        for c in record.checks
    )


def policies(path, record, **fields):
    """A policy file: ``good`` requires what the record holds, ``bad`` that and what is given."""
    held = [i for i, s in record.items.items() if s.lanes and State.HELD in s.lanes.values()]
    lines = ["schema = 1"]
    for name, extra in (("good", {}), ("other", fields)):
        lines.append(f"[policy.{name}]")
        given = {"about": "a test", "lanes": ["container", "sagemaker"], "items": held} | extra
        tables = {kind: given.pop(kind, []) for kind in ("waiver", "threshold")}
        lines += [f"{key} = {json.dumps(value)}" for key, value in given.items()]
        for kind, entries in tables.items():
            for entry in entries:
                lines.append(f"[[policy.{name}.{kind}]]")
                # A date has no quotes in TOML.
                plain = {k: v if k == "expires" else json.dumps(v) for k, v in entry.items()}
                lines += [f"{k} = {v}" for k, v in plain.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def gate(tmp_path, capsys, *arguments, store=None):
    """Run the verb; its exit status, its JSON and its words."""
    status = cli.main(
        [
            *map(str, arguments),
            *("--out", str(tmp_path / "gate"), "--store", store or str(tmp_path / "store")),
            *("--no-pictures", "--json"),
        ]
    )
    said = capsys.readouterr()
    return status, json.loads(said.out), said.err
