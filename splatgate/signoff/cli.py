"""Verbs ``gate``, ``sign``, ``verify`` and ``push``: from records to a release, or to a refusal."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from splatgate import checklist as checklists
from splatgate.container.distribution import Manifest
from splatgate.container.reference import Reference, parse
from splatgate.evidence import BadInput, Registry, to_json, write_bytes
from splatgate.paths import BUILD, DEFAULT_SCENE
from splatgate.record import Check, ImageFacts
from splatgate.signoff import attest, decide, outputs, policy, validation
from splatgate.signoff.document import Override, Past, Signoff
from splatgate.signoff.measures import legible, measure, merge
from splatgate.signoff.promote import NotPromoted, promote, same_image, staged
from splatgate.signoff.store import Store
from splatgate.signoff.validation import Refusal, Taken
from splatgate.verdict import CONFORMANT, EXIT_FAILED, EXIT_NO_JUDGEMENT, EXIT_OK


def say(text: str) -> None:
    """One line of progress, on standard error and at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(argv: Sequence[str]) -> int:
    """Verb ``gate``."""
    parser = argparse.ArgumentParser(
        prog="splatgate gate",
        description="Merge run records of one image under a policy into a sign-off, and promote "
        "the image if it is conformant. Exit status: 0 conformant, 1 a required item failed, 2 "
        "required evidence is missing or refused, 3 could not judge.",
    )
    parser.add_argument("records", nargs="+", metavar="RECORD", help="record.json, or its folder")
    parser.add_argument("--policy", required=True, metavar="NAME", help="a policy of the file")
    parser.add_argument("--policies", default=str(policy.FILE), metavar="FILE", help="policy.toml")
    parser.add_argument(
        "--image", metavar="REPO@DIGEST", help="the staged image (else: the records')"
    )
    parser.add_argument(
        "--promote", action="append", default=[], metavar="TAG", help="release as TAG"
    )
    parser.add_argument("--approver", metavar="NAME", default=os.environ.get("GITHUB_ACTOR"))
    parser.add_argument("--override", metavar="REASON", help="promote in spite of the verdict")
    parser.add_argument("--key", metavar="PEM", help="sign the attestation with this private key")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PEM", help="records' signers"
    )
    parser.add_argument("--store", default=str(BUILD / "signoffs"), metavar="DIR|s3://…")
    parser.add_argument(
        "--scene", default=str(DEFAULT_SCENE), metavar="DIR", help="for the pictures"
    )
    parser.add_argument(
        "--no-pictures", action="store_true", help="a page without views and splats"
    )
    parser.add_argument("--out", default=str(BUILD / "gate"), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="the sign-off on standard output")
    options = parser.parse_args(argv)
    for what, given in (("--promote", options.promote), ("--override", options.override)):
        if given and not (options.approver or "").strip():
            raise BadInput(f"{what} needs a name: give --approver NAME")
    if options.override is not None and not (options.override.strip() and options.promote):
        raise BadInput("--override needs a reason, and --promote TAG to release")
    # What cannot be used is told before anything is judged or released.
    key = attest.private_key(Path(options.key)) if options.key else None
    trusted = [attest.public_key(Path(path)) for path in options.trust]
    store = Store(options.store)

    signoff, taken, where = judge(options, trusted, store)
    digest = signoff.manifest_digest or signoff.image.image_id or "none"
    out = Path(options.out)
    pages = outputs.Pages(
        folders=[t.folder for t in taken if t.folder],
        scene=None if options.no_pictures else Path(options.scene),
        say=say,
    )

    def keep(signoff: Signoff) -> None:
        files = outputs.write(signoff, out, pages, key)
        store.put(digest, signoff, files)

    if options.promote:
        # Kept before the registry is touched, so that no release is without its sign-off.
        keep(signoff)
        signoff = release(signoff, where, options)
    keep(signoff)
    outputs.announce(signoff, out, say)
    if options.json:
        sys.stdout.write(to_json(signoff).decode())
    return signoff.exit


def judge(
    options: argparse.Namespace, trusted: Sequence[attest.Public], store: Store
) -> tuple[Signoff, list[Taken], tuple[Reference, Manifest] | None]:
    """Decide, and say what was decided on: the records that count, and the staged manifest."""
    checklist = checklists.load()
    named = policy.load(Path(options.policies), options.policy, checklist)
    given = [validation.take(validation.find(argument)) for argument in options.records]
    if len({t.sha256 for t, _ in given}) < len(given):
        raise BadInput("the same record is given twice")
    where = staged(options.image) if options.image else None
    refused: list[Refusal] = []
    image = next((t.record.image for t, _ in given if t.record.image.image_id), ImageFacts())
    if where and (reason := same_image(where[1], image.image_id)):
        refused.append(Refusal(options.image, "other-image", reason, "judge what was staged"))
    taken: list[Taken] = []
    for one, raw in given:
        path = Path(one.file)
        one = replace(one, signed_by=validation.signer(path, one.sha256, trusted))
        found = validation.refusals(one, raw, named, checklist, image.image_id)
        refused += found
        # What is supporting only is shown all the same, and never counted.
        if {refusal.code for refusal in found} <= {"supporting-only"}:
            taken.append(one)
    taken.sort(key=lambda one: one.process)  # what counts stands first
    refused += validation.expired(named, options.policies)
    ref, digest = _staged(taken, where, image)
    checks = catalogue()
    lines = decide.lines(decide.merge(taken, checks), named, checklist)
    measured = merge([measure(t.folder, t.process) for t in taken if t.folder])
    gaps = decide.missing(lines, checklist, ref, named.policy.gpu)
    today = datetime.now(UTC)
    waived = decide.waivers(lines, named, today.date())
    bounds = decide.bounds(measured, named)
    verdict, why, status = decide.weigh(lines, gaps, waived, bounds, refused)
    earlier = store.every()
    key = digest or image.image_id
    same = [s for s in earlier if (s.manifest_digest or s.image.image_id) == key]
    last = next((s for s in earlier if s.approved and s not in same), None)
    known = {t.record.suite.policy_sha256 for t in taken if t.record.suite.policy_sha256}
    signoff = Signoff(
        verdict=verdict,
        policy=named.name,
        policy_sha256=named.sha256,
        checklist_sha256=checklist.sha256,
        manifest_digest=digest,
        image=replace(image, ref=ref, manifest_digest=digest),
        why=why,
        about=named.policy.about,
        created=today.isoformat(timespec="milliseconds"),
        lines=lines,
        refused=tuple(refused),
        missing=tuple(gaps),
        waived=tuple(waived),
        bounds=tuple(bounds),
        sources=tuple(decide.source(t) for t in taken),
        measured=measured,
        counts=decide.tally(lines),
        never=tuple(
            decide.never(
                [decide.source(t) for t in taken],
                [s for x in earlier for s in x.sources],
                ref,
                {c.lane for c in checks},
            )
        ),
        policy_known=known == {named.sha256} if known else None,
        approver=options.approver,
        compared=decide.compare(lines, measured, last) if last else None,
        history=_history(same),
        exit=status,
    )
    return signoff, taken, where


def _staged(
    taken: Sequence[Taken], where: tuple[Reference, Manifest] | None, image: ImageFacts
) -> tuple[str, str | None]:
    """The image's reference and manifest: as given, as a registry served it to a record, or as the
    engine knew it; the manifest is None where the records were made before a push.
    """
    if where:
        return f"{where[0].repository}@{where[1].digest}", where[1].digest
    seen = [legible(t.folder / "registry.json", Registry) for t in taken if t.folder]
    served = [(r.image.served, r.image.ref) for r in seen if r]
    named = {s.digest: ref for s, ref in served if s and s.image_id == image.image_id}
    if not named:
        known = {t.record.image.manifest_digest: t.record.image.ref for t in taken}
        named = {digest: ref or "REF" for digest, ref in known.items() if digest}
    if len(named) > 1:
        raise BadInput(f"the records name {len(named)} manifests; say which: --image REPO@sha256:…")
    for digest, ref in named.items():
        parsed = parse(ref)
        return f"{parsed.repository}@{digest}" if parsed.host else ref, digest
    return image.ref or "REF", None


def _history(same: Sequence[Signoff]) -> tuple[Past, ...]:
    """Every earlier decision on a digest, once, the oldest first."""
    known: dict[str, Past] = {}
    for past in (p for s in same for p in (*s.history, _past(s))):
        if past.created not in known or past.released:
            known[past.created] = past
    return tuple(known[created] for created in sorted(known))


def _past(signoff: Signoff) -> Past:
    return Past(
        signoff.created,
        signoff.policy,
        signoff.title,
        signoff.approver,
        signoff.override,
        signoff.released,
    )


def release(
    signoff: Signoff, where: tuple[Reference, Manifest] | None, options: argparse.Namespace
) -> Signoff:
    """Promote what may be promoted; else say why nothing was."""
    if signoff.verdict != CONFORMANT and not options.override:
        return replace(signoff, not_released=f"the verdict is {signoff.title}")
    where = where or staged(signoff.image.ref or "")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    override = None
    if signoff.verdict != CONFORMANT:
        override = Override(options.override.strip(), options.approver.strip(), at)
    tags = list(dict.fromkeys(options.promote))
    try:
        released = promote(*where, tags, signoff.image.image_id)
    except NotPromoted as error:
        status = signoff.exit or decide.EXIT_MISSING
        return replace(signoff, not_released=str(error), exit=status)
    return replace(signoff, released=released, override=override, manifest_digest=released.digest)


def catalogue() -> list[Check]:
    """Every check there is, as one that nobody ran: what a record leaves out is not verified."""
    from splatgate.judge.in_process import JUDGED, cases

    return [replace(case.check, reason="not run") for case in cases(*JUDGED)]


def sign(argv: Sequence[str]) -> int:
    """Verb ``sign``: sign a run record where it was made."""
    parser = argparse.ArgumentParser(
        prog="splatgate sign",
        description="Sign a run record with a key file: writes record.intoto.json beside it.",
    )
    parser.add_argument("record", metavar="RECORD", help="record.json, or its folder")
    parser.add_argument("--key", required=True, metavar="PEM", help="private key")
    options = parser.parse_args(argv)
    key = attest.private_key(Path(options.key))
    path = validation.find(options.record)
    taken, _ = validation.take(path)
    states = {name: item.state for name, item in taken.record.items.items()}
    predicate = attest.predicate(
        [n for n, s in states.items() if s == "held"],
        [],
        [n for n, s in states.items() if s != "held"],
        [{"name": name, "digest": {"sha256": d}} for name, d in taken.record.evidence.items()],
    )
    statement = attest.statement("record.json", taken.sha256, predicate)
    write_bytes(path.with_name("record.intoto.json"), attest.sign(statement, key))
    sys.stdout.write(attest.Public.of(key.public_key()).id + "\n")
    return EXIT_OK


def verify(argv: Sequence[str]) -> int:
    """Verb ``verify``: check the attestation of a digest, offline."""
    parser = argparse.ArgumentParser(
        prog="splatgate verify",
        description="Verify the signed sign-off of a digest from the store. Exit status: 0 it "
        "holds and the result is not FAILED, 1 it does not, 3 nothing to verify.",
    )
    parser.add_argument("digest", metavar="DIGEST", help="sha256:… of the manifest")
    parser.add_argument("--key", required=True, metavar="PEM", help="public key")
    parser.add_argument("--store", default=str(BUILD / "signoffs"), metavar="DIR|s3://…")
    parser.add_argument("--json", action="store_true", help="the statement on standard output")
    options = parser.parse_args(argv)
    public, store = attest.public_key(Path(options.key)), Store(options.store)
    try:
        statement = store.verified(options.digest, public)
    except attest.BadSignature as error:
        say(f"{options.digest}: NOT verified: {error}")
        return EXIT_FAILED
    result = statement["predicate"]["result"]
    say(f"{options.digest}: {result}, signed by {public.id}")
    if options.json:
        sys.stdout.write(to_json(statement).decode())
    return EXIT_FAILED if result == "FAILED" else EXIT_OK


def push(argv: Sequence[str]) -> int:
    """Verb ``push``: push an image to a staging repository, and say what it is known by there."""
    parser = argparse.ArgumentParser(
        prog="splatgate push",
        description="Push an image to a staging repository, ungated. It is judged there by digest, "
        "and released by `gate --promote`.",
    )
    parser.add_argument("--to", required=True, metavar="REPO", help="HOST/NAME of the repository")
    parser.add_argument("--image", metavar="REF", help="default: the image that `make image` built")
    parser.add_argument("--json", action="store_true", help="the result on standard output")
    options = parser.parse_args(argv)
    from splatgate.signoff.push import push as to_staging

    found = to_staging(options.image, options.to, say)
    sys.stdout.write(to_json(found).decode() if options.json else f"{found['ref']}\n")
    return EXIT_OK if not found["problem"] else EXIT_NO_JUDGEMENT
