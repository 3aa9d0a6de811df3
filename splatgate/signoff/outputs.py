"""What a sign-off is written as: JSON, page, Markdown, JUnit, predicate, attestation."""

from __future__ import annotations

import hashlib
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from splatgate.checklist import SECTIONS
from splatgate.evidence import to_json, write_bytes
from splatgate.evidence.text import plain
from splatgate.record import State
from splatgate.signoff import attest, page, pictures
from splatgate.signoff.document import Bound, Line, Signoff
from splatgate.summary import WORDS

MARK = {State.HELD: "✅", State.FAILED: "❌", State.BLOCKED: "⛔", State.NOT_VERIFIED: "⬜"}


@dataclass
class Pages:
    """What the page shows besides the sign-off; made once, since rendering takes seconds."""

    folders: list[Path]
    #: The scene of the jobs; None: a page without pictures.
    scene: Path | None
    say: Callable[[str], None]

    @cached_property
    def media(self) -> pictures.Media:
        """Views and splats, as far as evidence and scene are at hand."""
        if self.scene is None:
            return pictures.Media()
        return pictures.collect(self.folders, self.scene, self.say)


def write(signoff: Signoff, out: Path, pages: Pages, key: Any) -> dict[str, bytes]:
    """Write every form of a sign-off into ``out``; the files to keep, by the store's endings."""
    document = to_json(signoff)
    predicate = predicate_of(signoff, hashlib.sha256(document).hexdigest())
    html = page.render(signoff, pages.media, key is not None).encode()
    files = {
        "signoff.json": document,
        "signoff.html": html,
        "summary.md": markdown(signoff).encode(),
        "junit.xml": junit(signoff),
        "predicate.json": json.dumps(predicate, indent=1, sort_keys=True).encode() + b"\n",
    }
    kept = {"json": document, "html": html}
    if key is not None:
        digest = signoff.manifest_digest or signoff.image.image_id or ""
        name = (signoff.image.ref or "image").partition("@")[0]
        statement = attest.statement(name, digest.removeprefix("sha256:"), predicate)
        files["attestation.intoto.json"] = kept["intoto.json"] = attest.sign(statement, key)
    for name, data in files.items():
        write_bytes(out / name, data)
    return kept


def predicate_of(signoff: Signoff, sha256: str) -> dict[str, Any]:
    """The test-result predicate of a sign-off, which rests on policy, checklist and records."""
    waived = {w.item for w in signoff.waived}
    required = [line for line in signoff.lines if line.required or line.state == State.FAILED]
    held = [line.id for line in required if line.state == State.HELD]
    failed = [x.id for x in required if x.state != State.HELD and x.id not in waived]
    failed += [f"threshold {b.threshold.measure}" for b in signoff.bounds if not b.holds]
    failed += [f"refused {r.file} ({r.code})" for r in signoff.refused]
    warned = [x.id for x in required if x.state != State.HELD and x.id in waived]
    rests_on = [
        ("sign-off", sha256),
        (f"policy {signoff.policy}", signoff.policy_sha256),
        ("checklist", signoff.checklist_sha256),
        *((f"record {source.run}", source.sha256) for source in signoff.sources),
    ]
    configuration = [{"name": name, "digest": {"sha256": digest}} for name, digest in rests_on]
    return attest.predicate(held, warned, failed, configuration)


def markdown(signoff: Signoff) -> str:
    """The sign-off as a comment on a pull request."""
    digest = signoff.manifest_digest or signoff.image.image_id or "unknown"
    said = [
        f"### Splatgate: **{signoff.title}** under `{signoff.policy}`",
        "",
        f"{_cell(signoff.answer)}. {_cell(signoff.why)}.",
        "",
        f"`{digest}`",
    ]
    if signoff.override:
        by = f"{_cell(signoff.override.by)}: {_cell(signoff.override.reason)}"
        said += ["", f"> **Released by override**, in spite of the verdict, by {by}"]
    if signoff.released:
        said += ["", f"`{signoff.released.repository}:{signoff.released.tag}`"]
    if signoff.not_released:
        said += ["", f"Not released: {_cell(signoff.not_released)}."]
    if signoff.policy_known is False:
        said += ["", "The policy was changed after the evidence was collected."]
    said += ["", "| | line | |", "|---|---|---|"]
    for line in signoff.lines:
        note = "" if line.state == State.HELD else _note(line, signoff)
        if line.without:
            note = f"held{line.without}, which this policy does not ask"
        if not line.required and line.state != State.FAILED:
            note = note or "not required by this policy"
        mark = "☑️" if line.without else MARK[line.state]
        said.append(f"| {mark} | {_cell(line.sentence)} | {_cell(note)} |")
    if signoff.refused:
        said += ["", "**Refused**", ""]
        said += [
            f"- `{r.code}` {_cell(r.file)}: {_cell(r.reason)}. {_cell(r.remedy)}."
            for r in signoff.refused
        ]
    said += [f"\nBound of the policy: {_cell(_bound(b))}." for b in signoff.bounds if not b.holds]
    if signoff.missing:
        said += ["", "**What would verify the rest**", "", "```"]
        said += dict.fromkeys(m.command for m in signoff.missing)
        said += ["```"]
    return "\n".join(said) + "\n"


def _bound(bound: Bound) -> str:
    """A threshold that does not hold, in words."""
    how = "not measured" if bound.value is None else f"{bound.value:g}"
    return f"{bound.threshold.measure}: {how}; {bound.threshold.why}"


def _note(line: Line, signoff: Signoff) -> str:
    waived = [w for w in signoff.waived if w.item == line.id]
    if waived:
        return f"waived until {waived[0].expires} by {waived[0].owner}: {waived[0].reason}"
    if line.state == State.FAILED:
        check = next(c for c in line.checks if c.state == State.FAILED and c.level == "must")
        return f"{check.name}: {check.reason.partition(chr(10))[0]}. {line.remedy}"
    return "; ".join(f"{m.lane}: {m.reason}" for m in signoff.missing if m.item == line.id)


def _cell(text: str) -> str:
    """Text that no Markdown or HTML of a subject's own log can break out of."""
    one = " ".join(plain(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return one.replace("|", "\\|").replace("`", "'").replace("@", "&#64;")[:400]


def junit(signoff: Signoff) -> bytes:
    """The sign-off as JUnit: a test suite for each section, a test case for each line."""
    root = ET.Element("testsuites", name=f"splatgate {signoff.policy}")
    for title in SECTIONS.values():
        mine = [line for line in signoff.lines if line.section == title]
        bad = [x for x in mine if x.state == State.FAILED]
        skipped = [x for x in mine if x.state not in (State.HELD, State.FAILED)]
        suite = ET.SubElement(root, "testsuite", name=title, tests=str(len(mine)))
        suite.set("failures", str(len(bad)))
        suite.set("skipped", str(len(skipped)))
        for line in mine:
            seconds = f"{sum(c.seconds for c in line.checks):.3f}"
            case = ET.SubElement(suite, "testcase", classname=line.id, name=line.sentence)
            case.set("time", seconds)
            if line.state != State.HELD:
                kind = "failure" if line.state == State.FAILED else "skipped"
                note = plain(_note(line, signoff) or "not required by this policy")
                ET.SubElement(case, kind, message=note).text = plain(line.remedy)
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data


def announce(signoff: Signoff, out: Path, say: Callable[[str], None]) -> None:
    """Tell a person on the terminal, and GitHub where this is one of its steps."""
    say(f"image    {signoff.image.ref}")
    say(f"policy   {signoff.policy}: {signoff.about}")
    for line in signoff.lines if signoff.sources else ():
        if line.state != State.HELD and (line.required or line.state == State.FAILED):
            word = "waived" if line.id in {w.item for w in signoff.waived} else WORDS[line.state][0]
            say(f"  {word:<13} {line.sentence}  [{line.id}]")
            say(f"{'':16}{_note(line, signoff)}")
    if part := [line.id for line in signoff.lines if line.without and line.required]:
        say(f"  not asked     of lanes that the checklist requires too: {', '.join(part)}")
    if signoff.policy_known is False:
        say("  changed       policy.toml is another than when the evidence was collected")
    for refused in signoff.refused:
        say(f"  refused       {refused.file}: {refused.code}: {refused.reason}; {refused.remedy}")
    for bound in signoff.bounds:
        if not bound.holds:
            say(f"  threshold     {_bound(bound)}")
    for command in dict.fromkeys(m.command for m in signoff.missing):
        say(f"  to verify     {command}")
    if signoff.override:
        say(f"RELEASED BY OVERRIDE by {signoff.override.by}: {signoff.override.reason}")
    if signoff.released:
        names = ", ".join((signoff.released.tag, *signoff.released.also))
        say(f"released {signoff.released.repository}: {names} = {signoff.released.digest}")
    if signoff.not_released:
        say(f"not released: {signoff.not_released}")
    say(f"page     {out / 'signoff.html'}")
    say(f"verdict  {signoff.title}: {signoff.why}")
    if not signoff.released:
        say(f"release  {signoff.answer}")
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a") as file:
            file.write(markdown(signoff))
