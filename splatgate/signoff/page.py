"""The sign-off as one HTML file that needs no network and embeds the record it is made from."""

from __future__ import annotations

import shlex
from importlib import resources

from splatgate.checklist import SECTIONS
from splatgate.evidence import to_json
from splatgate.record import Check, State
from splatgate.signoff import figures
from splatgate.signoff.document import Line, Signoff
from splatgate.signoff.markup import command, mono, number, section, state, table, text, when
from splatgate.signoff.measures import MEASURES
from splatgate.signoff.pictures import Media

#: What the page may load: nothing but itself. The viewer, opened from within, inherits it.
ALONE = "default-src data: blob: 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval'"
MARKS = {"conformant": "✓", "partial": "○", "non-conformant": "✕"}


def render(signoff: Signoff, media: Media, signed: bool = False) -> str:
    """The page of a sign-off; of one that is ``signed`` it tells how to verify it."""
    css, js = (
        resources.files(__package__).joinpath(f"page.{k}").read_text() for k in ("css", "js")
    )
    # In a script element nothing is escaped: neither its end nor the start of a comment may appear.
    record = to_json(signoff).decode().replace("<", "\\u003c")
    viewer = f'<script type="application/gzip" id="viewer">{media.viewer}</script>\n'
    # What stands in the way comes before what holds.
    body = "".join(part(signoff) for part in (waivers, refused, gaps, bounds, checklist))
    body += figures.quality(signoff, media)
    parts = (*figures.MEASURED, never, compared, evidence)
    body += "".join(part(signoff) for part in parts) + again(signoff, signed) + past(signoff)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{ALONE}">\n'
        f'<link rel="icon" href="data:,">\n'
        f"<title>{text(signoff.title)}: {text(name_of(signoff))}</title>\n<style>\n{css}</style>\n"
        f'</head>\n<body>\n<a class="skip" href="#checklist">to the checklist</a>\n'
        f"{head(signoff)}<main>\n{body}</main>\n{foot(signoff)}"
        f'<script type="application/json" id="signoff">{record}</script>\n'
        f"{viewer if media.viewer else ''}<script>\n{js}</script>\n</body>\n</html>\n"
    )


def name_of(signoff: Signoff) -> str:
    """The image as people call it."""
    name = (signoff.image.ref or "").partition("@")[0]
    return "image of this engine" if name.startswith("sha256:") else name or "image"


def head(signoff: Signoff) -> str:
    """Verdict, one sentence why, and what was judged."""
    image = signoff.image
    facts = [
        ("full", "Manifest digest", mono(signoff.manifest_digest or "not pushed")),
        ("full", "Image id", mono(image.image_id or "unknown")),
        ("full", "Policy", f"{text(signoff.policy)}: {text(signoff.about)}"),
        ("full", "Image", mono(name_of(signoff))),
        ("", "Size, unpacked", number(image.bytes, "bytes") if image.bytes else "unknown"),
        ("", "GPU code for", text(", ".join(image.archs) or "not declared")),
        ("", "Host driver, at least", text(image.driver_floor or "not declared")),
        ("", "Approver", text(signoff.approver or "nobody yet")),
    ]
    listed = "".join(
        f'<div class="{kind}"><dt>{text(term)}</dt><dd>{value}</dd></div>'
        for kind, term, value in facts
    )
    counts = [(State(name), n) for name, n in signoff.counts.items()]
    parts = "".join(f'<i class="{s}" style="flex:{n}"></i>' for s, n in counts if n)
    words = "".join(f"<li>{number(n, 'count')} {state(s)}</li>" for s, n in counts)
    return (
        f'<header>\n<div class="brand"><b>Splatgate sign-off</b>'
        f"<span>{when(signoff.created)}</span></div>\n"
        f'<h1 class="{signoff.verdict}"><i aria-hidden="true">{MARKS[signoff.verdict]}</i>'
        f"{text(signoff.title)}</h1>\n"
        f'<p class="answer">{text(signoff.answer)}.</p>\n'
        f'<p class="why">{text(signoff.why)}.</p>\n{banners(signoff)}'
        f'<div class="tally" aria-hidden="true">{parts}</div>'
        f'<ul class="counts" aria-label="required lines by state">{words}</ul>\n'
        f'<dl class="facts">{listed}</dl>\n</header>\n'
    )


def banners(signoff: Signoff) -> str:
    """What must not be overlooked: an override, now or ever; a release; a policy changed since."""
    said = []
    overrides = [p.override for p in signoff.history if p.override]
    for made in ([signoff.override] if signoff.override else []) + overrides:
        said.append(
            f'<div class="banner" role="note"><strong>Released by override, in spite of the '
            f"verdict</strong>{text(made.by)}, {when(made.at)}: {text(made.reason)}</div>\n"
        )
    if signoff.released:
        done = signoff.released
        kind = "plain" if signoff.override else "ok"
        said.append(
            f'<div class="banner {kind}" role="note"><strong>{text(done.repository)}</strong>'
            f"{when(done.at)}; read back as the same manifest, {mono(done.media_type)}</div>\n"
        )
    # That the verdict forbids it stands above already.
    if signoff.not_released and signoff.not_released != f"the verdict is {signoff.title}":
        said.append(
            f'<div class="banner plain" role="note"><strong>Not released</strong>'
            f"{text(signoff.not_released)}</div>\n"
        )
    if signoff.policy_known is False:
        said.append(
            '<div class="banner plain" role="note"><strong>The policy was changed after the run'
            "</strong>The evidence was collected under another policy.toml than it is judged by."
            "</div>\n"
        )
    return "".join(said)


def waivers(signoff: Signoff) -> str:
    """What was accepted though it does not hold, and until when."""
    rows = [
        (
            f"{text(w.item)}<br>{state(w.state)}",
            text(w.reason),
            text(w.owner),
            f"{text(w.expires)}{' <b>ends soon</b>' if w.soon else ''}<br>"
            f"{number(w.days_left, 'count')} days left"
            + ("<br>of no use any more: remove it" if w.state == State.HELD else ""),
        )
        for w in signoff.waived
    ]
    head = ("Line", "Reason", "Owner", "Until")
    return section("Waived", table(head, rows) if rows else "")


def refused(signoff: Signoff) -> str:
    """Records that do not count."""
    listed = "".join(
        f"<li><b>{text(r.code)}</b>: {mono(r.file)}<br>{text(r.reason)}"
        f"<br><small>To mend it: {text(r.remedy)}</small></li>"
        for r in signoff.refused
    )
    lead = "Evidence about which there is a doubt does not count, whatever it says."
    return section("Refused", f'<ul class="gaps">{listed}</ul>' if listed else "", lead)


def checklist(signoff: Signoff) -> str:
    """The guide's four sections with every line."""
    waived = {w.item for w in signoff.waived}
    made = ['<p class="tools"><button type="button" id="all">open all</button></p>']
    for title in SECTIONS.values():
        mine = [line for line in signoff.lines if line.section == title]
        rows = "".join(row(line, line.id in waived) for line in mine)
        made.append(f'<h3>{text(title)}</h3>\n<div class="lines">{rows}</div>\n')
    return section("Checklist", "".join(made), "Each line opens to its checks and its remedy.")


def row(line: Line, waived: bool) -> str:
    """One line of the checklist."""
    lanes = "".join(
        f'<span class="lane {s} {"" if name in line.required else "extra"}">{text(name)}</span>'
        for name, s in line.lanes.items()
        if name in line.required or s != State.NOT_VERIFIED
    )
    word = "waived" if waived and line.state != State.HELD else None
    if line.without:
        word = f"held{line.without}"
    if not line.required and line.state == State.NOT_VERIFIED:
        word = "not required"
    # What was seen outside the image stands in place of "not run".
    beside = {c.node for c in line.checks if c.supporting}
    shown = [c for c in line.checks if c.supporting or c.node not in beside or answered(c)]
    checks = "".join(check(c) for c in shown)
    listed = f'<ul class="checks">{checks}</ul>' if checks else "<p>No check yet.</p>"
    remedy = "" if line.state == State.HELD else f'<p class="remedy">{text(line.remedy)}</p>'
    ours = "" if not line.ours else " · not in the guide, ours"
    return (
        f"<details{' open' if line.state == State.FAILED else ''}><summary>"
        f'<b>{text(line.sentence)}</b><span class="lanes">{lanes}</span>'
        f'{state(line.state, word)}</summary><div class="detail">'
        f"<p>{text(line.why)} <span class=id>{mono(line.id)} · {text(line.cause)}{ours}</span></p>"
        f"{listed}{remedy}</div></details>"
    )


def answered(one: Check) -> bool:
    """Whether a check gave an answer."""
    return one.state != State.NOT_VERIFIED


def check(one: Check) -> str:
    """One check with its answer."""
    mark, word = one.state, None
    if one.level == "should" and one.state == State.FAILED:
        word = "advice"
    reason = one.reason
    if one.state == State.BLOCKED:
        reason = f"blocked by {(one.blocked_by or '').rpartition('::')[2]}"
    if one.supporting and one.state == State.PASSED:
        mark, word = State.NOT_VERIFIED, "supporting"
        reason = "passed in the process runtime, outside the image"
    said = f"<small>{text(reason)}</small>" if reason else ""
    name = one.node.rpartition("::")[2].removeprefix("test_").replace("_", " ")
    return (
        f'<li>{state(mark, word)}<span class="what" title="{text(one.node)}">{text(name)}'
        f'</span><span class="where">{text(one.lane)}, {text(one.origin)}</span>{said}</li>'
    )


def gaps(signoff: Signoff) -> str:
    """What was not verified, and the command that would verify it."""
    sentences = {line.id: line.sentence for line in signoff.lines}
    by_command: dict[str, dict[str, list[str]]] = {}
    for gap in signoff.missing:
        what = f"<b>{text(sentences[gap.item])}</b> <small>{mono(gap.item)}</small>"
        why = f"lane {gap.lane}: {gap.reason}"
        by_command.setdefault(gap.command, {}).setdefault(why, []).append(what)
    listed = "".join(
        "<li>"
        + "".join(f"{'<br>'.join(what)}<p>{text(why)}</p>" for why, what in whats.items())
        + f"{command(line)}</li>"
        for line, whats in by_command.items()
    )
    body = f'<ul class="gaps">{listed}</ul>' if listed else ""
    lead = "Required by the policy, and shown by no evidence that counts; and what would show it."
    return section("Not verified", body, lead)


def bounds(signoff: Signoff) -> str:
    """The policy's thresholds, and what was measured."""
    rows = []
    for bound in signoff.bounds:
        unit, _, title = MEASURES[bound.threshold.measure]
        asked = (("at least", bound.threshold.min), ("at most", bound.threshold.max))
        found = {True: State.HELD, False: State.FAILED, None: State.NOT_VERIFIED}[bound.holds]
        rows.append(
            (
                f"{text(title)}<br><small>{text(bound.threshold.why)}</small>",
                " ".join(f"{word} {number(n, unit)}" for word, n in asked if n is not None),
                number(bound.value, unit) if bound.value is not None else "not measured",
                state(found),
            )
        )
    body = table(("Measure", "Allowed", "Measured", ""), rows) if rows else ""
    return section("Bounds of the policy", body, name="bounds")


def never(signoff: Signoff) -> str:
    """What no record of any machine has shown."""
    listed = "".join(
        f"<li>{text(x.what)} <small>{text(x.why)}</small>"
        f"{command(x.command) if x.command else ''}</li>"
        for x in signoff.never
    )
    lead = "Made from the origins of these records and of all in the store."
    return section("Never run anywhere", f'<ul class="never">{listed}</ul>' if listed else "", lead)


def compared(signoff: Signoff) -> str:
    """What changed since the last approved digest."""
    last = signoff.compared
    if last is None:
        return section(
            "Since the last approved image", "<p>The store holds no other approved sign-off.</p>"
        )
    rows = [
        ("Newly failing or unproven", text(", ".join(last.newly_failing)) or "none", "", ""),
        ("Newly holding", text(", ".join(last.newly_passing)) or "none", "", ""),
    ]
    for entry in last.measures:
        unit, more, title = MEASURES[entry.measure]
        change = "same" if not entry.change else number(entry.change, "%", sign=True)
        if entry.change and more is not None:
            kind = "better" if (entry.change > 0) == more else "worse"
            change = f'<span class="{kind}">{change}</span>'
        rows.append((text(title), number(entry.before, unit), number(entry.now, unit), change))
    body = table(("", "Then", "Now", "Change"), rows)
    packages = [
        (mono(name), mono(before or "–"), mono(now or "–")) for name, before, now in last.packages
    ]
    if packages:
        inner = table(("Package", "Then", "Now"), packages)
        body += f'<details class="folded"><summary>Packages that changed</summary>{inner}</details>'
    lead = f"Against {mono(last.digest)}, signed off {when(last.created)}."
    return section("Since the last approved image", body, lead)


def evidence(signoff: Signoff) -> str:
    """The records that took part."""
    rows = []
    for one in signoff.sources:
        how = "recorded evidence, judged again" if one.door == "recorded" else ""
        tree = {True: ", dirty tree", None: ", tree unknown"}.get(one.suite.dirty, "")
        machine = [one.machine.engine, one.machine.gpu]
        cpus = f"{number(one.machine.cpus)} CPUs" if one.machine.cpus else ""
        where = "; ".join([text(m) for m in machine if m] + [cpus] * bool(cpus)) or "unknown"
        rows.append(
            (
                f"{mono(one.file)}<br>{mono(one.sha256)}",
                f"{when(one.created)}<br>{how}",
                f"{text(', '.join(one.lanes) or 'none')}"
                f"{'<br><b>supporting only</b>' if one.supporting else ''}",
                where,
                f"{mono((one.suite.commit or 'no commit')[:12])}{tree}",
                mono(one.signed_by) if one.signed_by else "not signed",
            )
        )
    head = ("Evidence", "Seen", "Lanes", "Machine", "Suite", "Signed by")
    lead = "Each folder is known by one hash of all its files, and was judged by this gate."
    bar = (
        f"<p>Policy {mono(signoff.policy_sha256)}<br>Checklist {mono(signoff.checklist_sha256)}</p>"
    )
    return section("Evidence", (table(head, rows) if rows else "<p>None.</p>") + bar, lead)


def again(signoff: Signoff, signed: bool) -> str:
    """How to come to the same page."""
    commits = dict.fromkeys(s.suite.commit for s in signoff.sources if s.suite.commit)
    lines = [f"git checkout {commit}" for commit in commits]
    lines += [f"python -m splatgate judge --image {signoff.image.ref}"] if signoff.image.ref else []
    files = shlex.join(source.file for source in signoff.sources) or "EVIDENCE"
    lines.append(f"python -m splatgate gate {files} --policy {shlex.quote(signoff.policy)}")
    if signoff.manifest_digest and signed:
        lines.append(f"python -m splatgate verify {signoff.manifest_digest} --key PUBLIC.pem")
    return section("To repeat it", "".join(command(line) for line in lines))


def past(signoff: Signoff) -> str:
    """Earlier decisions on this digest."""
    rows = [
        (
            when(p.created),
            text(p.policy),
            text(p.verdict),
            text(p.approver or "nobody"),
            text(f"released as {p.released.tag}" if p.released else "not released")
            + (f"<br><b>override</b>: {text(p.override.reason)}" if p.override else ""),
        )
        for p in reversed(signoff.history)
    ]
    head = ("When", "Policy", "Verdict", "Approver", "")
    return section("Earlier decisions on this image", table(head, rows) if rows else "")


def foot(signoff: Signoff) -> str:
    """Where the numbers come from."""
    return (
        "<footer>Every number on this page stands in the record that the page embeds "
        f"({mono('script#signoff')}), {text(signoff.schema)}. Not verified is never passed."
        "</footer>\n"
    )
