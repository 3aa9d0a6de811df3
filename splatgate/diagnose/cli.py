"""Verb ``diagnose``: from a failed job to the line of the checklist that explains it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splatgate.diagnose import collect, emergency, unusual
from splatgate.diagnose.bundle import Bundle
from splatgate.diagnose.checks import of_definition
from splatgate.diagnose.explain import Diagnosis, explain
from splatgate.diagnose.kinds import Explanation
from splatgate.diagnose.load import GOOD, load
from splatgate.diagnose.note import NOTE, Reproduction, near, note, reproduction
from splatgate.diagnose.redact import Redactor, shown, stripped
from splatgate.diagnose.shapes import short
from splatgate.diagnose.stages import LastWords
from splatgate.evidence import BadInput, to_json, write_bytes
from splatgate.paths import BUILD
from splatgate.sagemaker.aws import clients
from splatgate.signoff.attest import public_key
from splatgate.signoff.store import Store

SCHEMA = "splatgate/diagnose/2"


@dataclass(frozen=True)
class Report:
    """``diagnose --json``."""

    #: ``cause``: one is named; ``unknown``; ``well``: a service says so, and nothing contradicts.
    verdict: str
    ranked: tuple[Explanation, ...]
    last_words: LastWords
    unusual: tuple[str, ...]
    #: What could not be collected, and what would allow it.
    missing: tuple[dict[str, str], ...]
    #: What of the bundle was not read, or not whole, or says nothing known.
    unread: tuple[str, ...]
    reproduction: Reproduction
    redacted: bool
    bundle: str
    note: str
    schema: str = SCHEMA


def main(argv: Sequence[str]) -> int:
    """Exit status 0: there is a verdict, `unknown` among them; 3: nothing could be read."""
    parser = argparse.ArgumentParser(
        prog="splatgate diagnose",
        description="Explain a failed training job by the lines of the checklist. Collects from "
        "AWS, reading only, or reads a bundle: a folder, archive or file of what the AWS CLI "
        "prints (describe-training-job, get-log-events, get-execution-history, …) or of logs.",
    )
    parser.add_argument(
        "target", nargs="?", help="a training job's name or ARN, an execution's ARN, or a bundle"
    )
    parser.add_argument("--last-failed", action="store_true", help="the job that failed last")
    parser.add_argument("--good", metavar="BUNDLE", help="a job that went well, to compare with")
    parser.add_argument("--out", metavar="DIR", help="where bundle and note go (build/diagnose/…)")
    parser.add_argument("--image", metavar="REF", help="runs the reproduction instead of its own")
    parser.add_argument("--scene", metavar="DIR", help="what the reproduction trains on")
    parser.add_argument("--profile", help="AWS profile")
    parser.add_argument("--region", help="AWS Region")
    parser.add_argument(
        "--no-redact", action="store_true", help="keep account numbers, signed URLs, credentials"
    )
    emergency = parser.add_argument_group("emergency")
    emergency.add_argument(
        "--last-good", action="store_true", help="list the digests that last worked, newest first"
    )
    emergency.add_argument("--store", metavar="DIR|s3://…", help="of sign-offs (build/signoffs)")
    emergency.add_argument("--key", metavar="PEM", help="public key that sign-offs are signed with")
    emergency.add_argument(
        "--rollback", metavar="DIGEST", help="show the state machine's change back to a digest"
    )
    emergency.add_argument("--machine", metavar="ARN", help="the state machine to change")
    emergency.add_argument("--repository", help="of the digest, where the definition names none")
    emergency.add_argument("--apply", action="store_true", help="make the change")
    parser.add_argument("--json", action="store_true", help="the report on standard output")
    options = parser.parse_args(argv)
    if options.last_good or options.rollback:
        return _emergency(options)
    if bool(options.target) == options.last_failed:
        raise BadInput("name a job, an execution or a bundle, or give --last-failed (one of them)")

    folder, out = _bundle(options)
    bundle = load(folder)
    diagnosis = explain(bundle)
    odd = _unusual(bundle, folder, options.good)
    redacted = not options.no_redact
    clean: Callable[[str], str] = Redactor() if redacted else str
    again = reproduction(bundle, diagnosis, out, options.image, options.scene, clean)
    path = out / NOTE
    write_bytes(path, note(bundle, diagnosis, odd, again, clean, redacted).encode())
    report = Report(
        diagnosis.verdict,
        diagnosis.ranked,
        diagnosis.last_words,
        tuple(odd),
        tuple(bundle.missing),
        tuple(bundle.unread),
        again,
        redacted,
        str(folder),
        str(path),
    )
    sys.stderr.write(stripped(clean(summary(diagnosis, report))))
    if options.json:
        value = shown(json.loads(to_json(report)), clean)
        # Where things lie on this machine must open.
        value |= {"bundle": stripped(report.bundle), "note": stripped(report.note)}
        sys.stdout.write(to_json(value).decode())
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _bundle(options: argparse.Namespace) -> tuple[Path, Path]:
    """The folder or file that holds the bundle, and the folder that the note goes to."""
    if options.target and Path(options.target).exists():
        source = Path(options.target)
        return source, _out(options.out, source.name.partition(".")[0])
    if options.target and ("/" in options.target and not options.target.startswith("arn:")):
        raise BadInput(f"{options.target}: no such bundle")
    client = _clients(options)
    with tempfile.TemporaryDirectory(prefix="splatgate-diagnose-") as temporary:
        probe = collect.Collector(client, Path(temporary), _say, not options.no_redact)
        target = probe.last_failed() if options.last_failed else options.target
    out = _out(options.out, target.rpartition(":")[2].rpartition("/")[2])
    folder = out / "bundle"
    collect.Collector(client, folder, _say, not options.no_redact).collect(target)
    return folder, out


def _clients(options: argparse.Namespace) -> Callable[[str], Any]:
    """boto3's clients; what names no file may have been meant as one."""
    what = f"{options.target}: no such bundle, and " if options.target else ""
    return clients(options.profile, options.region, what)


def _emergency(options: argparse.Namespace) -> int:
    """``--last-good`` and ``--rollback``."""
    import botocore.exceptions

    try:
        if options.last_good:
            return _last_good(options)
        client = _clients(options)
        if not options.machine:
            raise BadInput("--rollback needs --machine ARN: the state machine to change")
        out = _out(options.out, "rollback")
        diff, worse, undo = emergency.rollback(
            client,
            options.machine,
            options.rollback,
            out,
            lambda definition: of_definition(definition, options.machine),
            options.repository,
            options.apply,
        )
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise BadInput(" ".join(str(error).split())) from None
    _say(diff)
    for finding in worse:
        _say(f"new in the judgement: {finding}")
    _say("applied" if options.apply else "not applied; add --apply to make this change")
    _say(f"undo: {undo}")
    if options.json:
        report = {"diff": diff, "worse": worse, "applied": options.apply, "undo": undo}
        sys.stdout.write(to_json(report).decode())
    return 0


def _last_good(options: argparse.Namespace) -> int:
    """The digests with a valid sign-off; without one, those that a succeeded job used."""
    found: list[emergency.Good] = []
    store = Store(options.store or str(BUILD / "signoffs"))
    if options.key:
        found = emergency.of_signoffs(store, public_key(Path(options.key)), _say)
        if not found:
            _say(f"no valid sign-off in {store.where}: listing what succeeded jobs used")
    else:
        _say("no --key: no sign-off can be verified; listing what succeeded jobs used")
    found = found or emergency.of_jobs(_clients(options))
    for good in found:
        _say(f"{good.digest}  {good.image}  {good.what}  {good.when}")
    if not found:
        _say("no training job of this account and Region has succeeded")
    if options.json:
        sys.stdout.write(to_json({"last_good": found}).decode())
    return 0


def _out(asked: str | None, name: str) -> Path:
    out = Path(asked) if asked else BUILD / "diagnose" / name
    out.mkdir(parents=True, exist_ok=True)
    return out


def _unusual(bundle: Bundle, folder: Path, good: str | None) -> list[str]:
    """Differences to the good job that was named, or that was collected with the bundle."""
    beside = folder / GOOD
    if good is None and not beside.is_dir():
        return []
    return unusual.unusual(bundle, load(Path(good) if good else beside))


def summary(diagnosis: Diagnosis, report: Report) -> str:
    """What a person on call reads first: the last words, then what explains them."""
    last = diagnosis.last_words
    lines = ["", f"Ended: {last.ending}"]
    if last.error:
        lines += ["Last words:", *(f"     {short(q.line, 200)}" for q in last.context)]
        lines += [f"  => {last.error.source}: {last.error.line}"]
    elif last.context:
        lines += ["Last lines:", *(f"     {short(q.line, 200)}" for q in last.context)]
    lines += [f"     in the job's own code: {last.frame}"] if last.frame else []
    if last.first:
        lines += [f"     first error: {last.first.source}: {short(last.first.line, 200)}"]
    lines += ["", VERDICTS[diagnosis.verdict]]
    for number, found in enumerate(diagnosis.ranked, 1):
        stage = f" [{found.stage}]" if found.stage else ""
        lines.append(f"{number}. {found.item}{stage}: {found.cause}")
        lines += [f"     {quote.source}: {short(quote.line, 160)}" for quote in found.evidence[:3]]
        lines.append(f"   → {found.remedy}")
    if report.unusual:
        lines += ["", "Unusual against the last good job:", *(f"   {u}" for u in report.unusual)]
    lines += [f"not read: {what}" for what in report.unread[:10]]
    lines += [f"not read: {len(report.unread) - 10} more"] if len(report.unread) > 10 else []
    if report.reproduction.command:
        lines += ["", "See it again here:", f"   {report.reproduction.command}"]
    elif diagnosis.verdict != "well":
        lines += ["", f"To see it again here: {'; '.join(report.reproduction.needs)}"]
    lines += [] if report.redacted else ["", "Not redacted."]
    lines += ["", f"note: {near(Path(report.note))}", ""]
    return "\n".join(lines)


VERDICTS = {
    "cause": "What explains it, the earliest first:",
    "unknown": "UNKNOWN: nothing known names a cause. Where to look, if anything:",
    "well": "Well: a service says so, and nothing in the bundle contradicts it.",
}
