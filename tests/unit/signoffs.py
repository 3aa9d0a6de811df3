"""Evidence for the tests of the sign-off: what is recorded, as if seen today, of one image."""

import hashlib
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from unittest import mock

import msgspec

from splatgate.evidence import Header, Image, read, write
from splatgate.judge.in_process import judged as judge_again
from splatgate.paths import DEFAULT_SCENE, ROOT
from splatgate.record import State, Suite, evidence_sha256, fingerprint, sealed
from splatgate.signoff import cli, validation

GOOD, GPU = (ROOT / "tests" / "evidence" / name for name in ("good", "gpu"))
PAST = "2020-01-01T00:00:00+00:00"
CLEAN = Suite("0", "c" * 40, False, "0", tree="7" * 40)


JUDGED = {}


def judged_once(folder, scene, known):
    """The judgement of a folder of evidence; of equal folders the same."""
    key = evidence_sha256(fingerprint(folder))
    if key not in JUDGED:
        JUDGED[key] = judge_again(folder, scene, known)
    return JUDGED[key]


def settings(image, **extra):
    """The configuration of an image, as its registry holds it."""
    config = {
        "Entrypoint": list(image.entrypoint), "Cmd": list(image.cmd),
        "Env": [f"{k}={v}" for k, v in image.env.items()], "User": image.user,
        "WorkingDir": image.workdir, "Labels": image.labels,
    }  # fmt: skip
    return {
        "os": image.os, "architecture": image.architecture, "config": config,
        "rootfs": {"type": "layers", "diff_ids": list(image.digests)}, **extra,
    }  # fmt: skip


SETTINGS = settings(read(GOOD / "image.json", Image))
CONFIG = json.dumps(SETTINGS).encode()
IMAGE_ID = validation.sha256(CONFIG)
MANIFEST = json.dumps({"config": {"digest": IMAGE_ID}}).encode()
DIGEST = validation.sha256(MANIFEST)


def judged(out):
    """The recorded evidence as if seen today, by a clean suite, of an image whose configuration is
    among it; in a folder of its own with its record.
    """
    shutil.copytree(
        GOOD, out / "evidence", ignore=shutil.ignore_patterns("record.json", "registry.json")
    )
    (out / "evidence" / "config.json").write_bytes(CONFIG)
    (out / "evidence" / "manifest.json").write_bytes(MANIFEST)
    old = read(GOOD / "evidence.json", Header).image_id
    for path in (out / "evidence").rglob("*"):
        if path.suffix in (".json", ".log") and old in (text := path.read_text()):
            path.write_text(text.replace(old, IMAGE_ID))
    log = (out / "evidence" / "build.log").read_bytes()
    edit(out / "evidence" / "build.json", log_sha256=hashlib.sha256(log).hexdigest())
    dated_today(out / "evidence", {"suite": msgspec.to_builtins(CLEAN)})
    return sealed_again(out)


def edit(path, **changes):
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def fails(folder, line="torch_cuda"):
    """Edit evidence so that the image's torch is built for no CUDA."""
    edit(folder / "evidence" / "container" / "facts.json", **{line: None})
    return sealed_again(folder)


def sealed_again(folder):
    """Write the record anew, as the run that saw so would have."""
    record = judged_once(folder / "evidence", DEFAULT_SCENE, {})
    write(folder / "record.json", sealed(replace(record, suite=CLEAN, door="live")))
    return folder


def on_a_gpu_machine(out):
    """What `judge --lane gpu` left on a GPU machine without an engine, as if seen today."""
    shutil.copytree(GPU, out / "evidence", ignore=shutil.ignore_patterns("record.json"))
    extra = read(GPU / "evidence.json", Header).extra | {"suite": msgspec.to_builtins(CLEAN)}
    dated_today(out / "evidence", extra)
    return sealed_again(out)


def dated_today(evidence, extra):
    """Evidence as if all of it had been seen today."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for path in (evidence / "jobs").glob("*/job.json"):
        attempts = [a | {"started": now} for a in json.loads(path.read_text())["attempts"]]
        edit(path, started=now, attempts=attempts)
    edit(evidence / "evidence.json", created=now, extra=extra)


def policies(path, record, release=False, **fields):
    """A policy file: ``good`` requires what the record holds, ``bad`` that and what is given."""
    held = [i for i, s in record.items.items() if s.lanes and State.HELD in s.lanes.values()]
    lines = ["schema = 1"]
    for name, extra in (("good", {}), ("other", fields)):
        lines.append(f"[policy.{name}]")
        plain = {"about": "a test", "may_release": release, "signed": release, "items": held}
        given = plain | {"lanes": ["container", "sagemaker"]} | extra
        tables = {kind: given.pop(kind, []) for kind in ("waiver", "threshold", "revoked")}
        lines += [f"{key} = {json.dumps(value)}" for key, value in given.items()]
        for kind, entries in tables.items():
            for entry in entries:
                lines.append(f"[[policy.{name}.{kind}]]")
                # A date has no quotes in TOML.
                dates = ("expires", "since")
                plain = {k: v if k in dates else json.dumps(v) for k, v in entry.items()}
                lines += [f"{k} = {v}" for k, v in plain.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def gate(tmp_path, capsys, *arguments, store=None, clean=True):
    """Run the verb in a clean checkout; its exit status, its JSON and its words."""
    ours = replace(CLEAN, dirty=not clean)
    with (
        mock.patch.object(cli, "suite", lambda sha256: replace(ours, checklist_sha256=sha256)),
        mock.patch.object(validation, "judged", judged_once),
    ):
        status = cli.main(
            [
                *map(str, arguments),
                *("--out", str(tmp_path / "gate"), "--store", store or str(tmp_path / "store")),
                *("--no-pictures", "--json"),
            ]
        )
    said = capsys.readouterr()
    return status, json.loads(said.out), said.err
