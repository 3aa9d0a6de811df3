"""Verbs ``gate``, ``sign``, ``verify`` and ``push``: from evidence to a release or a refusal."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from splatgate import checklist as checklists
from splatgate.container import registry
from splatgate.container.distribution import SCHEMA2, Manifest
from splatgate.container.reference import Reference, parse
from splatgate.evidence import BadInput, to_json, write_bytes
from splatgate.evidence.text import plain
from splatgate.paths import BUILD, DEFAULT_SCENE
from splatgate.record import Check, ImageFacts, suite
from splatgate.signoff import attest, decide, outputs, policy, validation
from splatgate.signoff.document import Override, Past, Signoff
from splatgate.signoff.measures import measure, merge
from splatgate.signoff.policy import Named
from splatgate.signoff.promote import NotPromoted, destination, promote, same_image, staged
from splatgate.signoff.store import NONE, Store
from splatgate.signoff.validation import Refusal, Taken
from splatgate.verdict import CONFORMANT, EXIT_FAILED, EXIT_NO_JUDGEMENT, EXIT_OK


def say(text: str) -> None:
    """One line of progress, on standard error and at once."""
    sys.stderr.write(f"{plain(text)}\n")
    sys.stderr.flush()


def main(argv: Sequence[str]) -> int:
    """Verb ``gate``."""
    parser = argparse.ArgumentParser(
        prog="splatgate gate",
        description="Judge the evidence of one image under a policy, write a sign-off, and promote "
        "the image if it is conformant. Exit status: 0 conformant, 1 a required item failed, 2 "
        "required evidence is missing or refused, 3 could not judge.",
    )
    parser.add_argument(
        "records", nargs="+", metavar="EVIDENCE", help="what `judge` left: record or folder"
    )
    parser.add_argument("--policy", required=True, metavar="NAME", help="a policy of the file")
    parser.add_argument("--policies", default=str(policy.FILE), metavar="FILE", help="policy.toml")
    parser.add_argument(
        "--image", metavar="REPO@DIGEST", help="the staged image (else: the evidence's)"
    )
    parser.add_argument(
        "--promote", action="append", default=[], metavar="TAG", help="release as TAG"
    )
    parser.add_argument("--to", metavar="HOST/NAME", help="the release repository")
    parser.add_argument("--approver", metavar="NAME", default=os.environ.get("GITHUB_ACTOR"))
    parser.add_argument("--override", metavar="REASON", help="promote in spite of the verdict")
    parser.add_argument("--key", metavar="PEM", help="sign the attestation with this private key")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PEM", help="who may sign evidence"
    )
    parser.add_argument("--store", default=str(BUILD / "signoffs"), metavar="DIR|s3://…")
    parser.add_argument(
        "--scene", default=str(DEFAULT_SCENE), metavar="DIR", help="scene of the jobs"
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

    named = policy.load(Path(options.policies), options.policy, checklists.load())
    if options.promote and named.policy.may_release and not options.to:
        raise BadInput("--promote needs --to HOST/NAME, the release repository")
    if options.to:
        destination(options.to, parse(options.image).repository if options.image else "")
    signoff, taken, where = judge(options, trusted, store, named)
    digest = signoff.manifest_digest or signoff.image.image_id or NONE
    out = Path(options.out)
    pages = outputs.Pages(
        folders=[t.folder for t in taken],
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
    options: argparse.Namespace, trusted: Sequence[attest.Public], store: Store, named: Named
) -> tuple[Signoff, list[Taken], tuple[Reference, Manifest] | None]:
    """Decide, and say what was decided on: the evidence that counts, and the staged manifest."""
    checklist = checklists.load()
    known: dict[str, Any] = {}
    given = [validation.take(a, Path(options.scene), trusted, known) for a in options.records]
    if len({t.sha256 for t in given}) < len(given):
        raise BadInput("the same evidence is given twice")
    for one in given:
        validation.valid(one.header.image_id, f"{one.folder}/evidence.json")
    where = staged(options.image) if options.image else None
    image, config, digest = decided_on(given, where)
    today = datetime.now(UTC)
    refused: list[Refusal] = []
    if where and (reason := same_image(where[1], image.image_id)):
        refused.append(Refusal(options.image, "other-image", reason, "judge what was staged"))
    taken: list[Taken] = []
    for one in given:
        found = validation.refusals(one, named, config, digest)
        refused += found
        # What is supporting only is shown all the same, and never counted.
        if {refusal.code for refusal in found} <= {"supporting-only"}:
            taken.append(one)
    taken.sort(key=lambda one: one.process)  # what counts stands first
    refused += validation.waivers(named, options.policies, today.date())
    ours = suite(checklist.sha256)
    if ours.dirty:
        reason = "what judges here differs from its commit"
        refused.append(Refusal("this checkout", "dirty-tree", reason, "commit, then gate again"))
    ref = reference(image, where, digest)
    checks = catalogue()
    lines = decide.lines(decide.merge(taken, checks), named, checklist)
    measures = [measure(t.folder, t.process) for t in taken]
    measured = merge(measures)
    gaps = decide.missing(lines, checklist, ref, named.policy.gpu)
    waived = decide.waivers(lines, named, today.date())
    bounds = decide.bounds(measures, named)
    verdict, why, status = decide.weigh(lines, gaps, waived, bounds, refused)
    earlier = store.every()
    key = digest or image.image_id
    same = [s for s in earlier if (s.manifest_digest or s.image.image_id) == key]
    last = next((s for s in earlier if s.approved and s not in same), None)
    hashes = {t.looker.policy_sha256 for t in taken if t.looker and t.looker.policy_sha256}
    sources = [decide.source(t) for t in taken]
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
        sources=tuple(sources),
        measured=measured,
        counts=decide.tally(lines),
        never=tuple(
            decide.never(
                sources, [s for x in earlier for s in x.sources], ref, {c.lane for c in checks}
            )
        ),
        policy_known=hashes == {named.sha256} if hashes else None,
        approver=options.approver,
        compared=decide.compare(lines, measured, last) if last else None,
        history=_history(same),
        suite=ours,
        may_release=named.policy.may_release,
        exit=status,
    )
    return signoff, taken, where


def decided_on(
    given: Sequence[Taken], where: tuple[Reference, Manifest] | None
) -> tuple[ImageFacts, bytes | None, str | None]:
    """The image, the bytes of its configuration, and its manifest's digest: as the registry serves
    them where it was named, else as their bytes among the evidence tell.

    Raises:
        BadInput: the evidence names more than one manifest.
    """
    inside = [t for t in given if not t.process]
    found = {t.file: validation.configuration(t) for t in inside}
    first = next((t for t in inside if found[t.file][0]), next(iter(inside), None))
    image = ImageFacts()
    if first:
        image = replace(first.record.image, image_id=first.header.image_id)
    if where:
        named = where[1].image_id
        single = named and where[1].media_type == SCHEMA2
        config = registry.client(where[0]).blob(named) if named and single else None
        return image, config, where[1].digest
    digests = {digest for _, digest in found.values() if digest}
    if len(digests) > 1:
        raise BadInput(f"the evidence names {len(digests)} manifests; say which: --image REPO@…")
    config = found[first.file][0] if first else None
    return image, config, next(iter(digests), None)


def reference(
    image: ImageFacts, where: tuple[Reference, Manifest] | None, digest: str | None
) -> str:
    """The image's reference, fit for a command line."""
    if where:
        return f"{where[0].repository}@{where[1].digest}"
    try:
        parsed = parse(image.ref or "")
    except BadInput:
        return "REF"
    return f"{parsed.repository}@{digest}" if parsed.host and digest else str(image.ref)


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
    if not signoff.may_release:
        reason = f"policy {signoff.policy} releases nothing: it has no may_release"
        return replace(signoff, not_released=reason, exit=decide.EXIT_MISSING)
    if signoff.verdict != CONFORMANT and not options.override:
        return replace(signoff, not_released=f"the verdict is {signoff.title}")
    where = where or staged(signoff.image.ref or "")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    override = None
    if signoff.verdict != CONFORMANT:
        override = Override(options.override.strip(), options.approver.strip(), at)
    tags = list(dict.fromkeys(options.promote))
    try:
        to = destination(options.to, where[0].repository)
        released = promote(*where, to, tags, signoff.image.image_id)
    except NotPromoted as error:
        status = signoff.exit or decide.EXIT_MISSING
        return replace(signoff, not_released=str(error), exit=status)
    return replace(signoff, released=released, override=override, manifest_digest=released.digest)


def catalogue() -> list[Check]:
    """Every check there is, as one that nobody ran: what a record leaves out is not verified."""
    from splatgate.judge.in_process import JUDGED, cases

    return [replace(case.check, reason="not run") for case in cases(*JUDGED)]


def sign(argv: Sequence[str]) -> int:
    """Verb ``sign``: sign evidence where it was collected."""
    parser = argparse.ArgumentParser(
        prog="splatgate sign",
        description="Sign evidence with a key file, the hash of each of its files and the suite of "
        f"this checkout included: writes {validation.ENVELOPE} beside its record.",
    )
    parser.add_argument("record", metavar="EVIDENCE", help="what `judge` left: record or folder")
    parser.add_argument("--key", required=True, metavar="PEM", help="private key")
    parser.add_argument("--scene", default=str(DEFAULT_SCENE), metavar="DIR", help="of its jobs")
    options = parser.parse_args(argv)
    key = attest.private_key(Path(options.key))
    folder, path = validation.find(options.record)
    beside = (path or folder / "record.json").with_name(validation.ENVELOPE)
    taken = validation.take(options.record, Path(options.scene), (), {})
    if taken.altered:
        raise BadInput(f"{options.record}: not to be signed: {taken.altered}; judge it again")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    ours = suite(checklists.load().sha256)
    write_bytes(beside, attest.sign(validation.statement(taken, path, ours, at), key))
    sys.stdout.write(attest.Public.of(key.public_key()).id + "\n")
    return EXIT_OK


def verify(argv: Sequence[str]) -> int:
    """Verb ``verify``: check the attestation of a digest, offline."""
    parser = argparse.ArgumentParser(
        prog="splatgate verify",
        description="Verify the signed sign-off of a digest from the store. Exit status: 0 it "
        "holds, and neither its result nor that of a later one is FAILED, 1 it does not, 3 nothing "
        "to verify.",
    )
    parser.add_argument("digest", metavar="DIGEST", help="the manifest: sha256:… or REPO@sha256:…")
    parser.add_argument("--key", required=True, metavar="PEM", help="public key")
    parser.add_argument("--store", default=str(BUILD / "signoffs"), metavar="DIR|s3://…")
    parser.add_argument("--json", action="store_true", help="the statement on standard output")
    options = parser.parse_args(argv)
    public, store = attest.public_key(Path(options.key)), Store(options.store)
    digest = options.digest.rpartition("@")[2]
    try:
        statement = store.verified(digest, public)
    except attest.BadSignature as error:
        say(f"{digest}: NOT verified: {error}")
        return EXIT_FAILED
    # Its bytes are those that were signed.
    signoff = store.get(digest)
    assert signoff is not None
    result = statement["predicate"]["result"]
    say(f"{digest}: {result}, signed by {public.id}")
    say(f"policy   {signoff.policy} (policy.toml {signoff.policy_sha256})")
    say(f"approver {signoff.approver or 'nobody'}")
    for w in signoff.waived:
        say(f"waived   {w.item} until {w.expires} by {w.owner}: {w.reason} ({w.state})")
    if signoff.override:
        say(f"RELEASED BY OVERRIDE by {signoff.override.by}: {signoff.override.reason}")
    later = store.later(digest, signoff)
    for one in later:
        say(f"later    {one.created} under {one.policy}: {one.title}, {one.approver or 'nobody'}")
    if any(one.verdict != CONFORMANT for one in later):
        result = "FAILED"
        say(f"{digest}: FAILED: a later sign-off is not conformant")
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
