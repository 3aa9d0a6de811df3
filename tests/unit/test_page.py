"""The page says what its record says, needs nothing from elsewhere, and breaks on no text."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from splatgate.evidence import from_json, read
from splatgate.record import Record
from splatgate.signoff import page
from splatgate.signoff.document import Override, Released, Signoff
from splatgate.signoff.markup import told
from splatgate.signoff.outputs import junit, markdown
from splatgate.signoff.pictures import Media, Shown
from tests.unit.signoffs import (
    DIGEST,
    fails,
    gate,
    judged,
    on_a_gpu_machine,
    policies,
    sealed_again,
)

SOON = str((datetime.now(UTC) + timedelta(days=30)).date())
VOID = {"meta", "link", "img", "br", "path", "polygon", "polyline", "circle"}
UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3}
PIXEL = "data:image/webp;base64,UklGRg=="


class Page(HTMLParser):
    """Text of the page with the value that it stands for, tags, addresses and the record."""

    def __init__(self, html):
        super().__init__()
        self.open, self.values, self.texts, self.shown = [], [], [], []
        self.addresses, self.ids, self.images, self.record = [], [], [], None
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.addresses += [found[k] for k in ("src", "href", "action") if k in found]
        self.images += [found.get("alt")] if tag == "img" else []
        if tag not in VOID:
            self.open.append((tag, found))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop()[0] == tag, f"</{tag}> closes nothing at {self.getpos()}"

    def handle_data(self, text):
        tag, found = self.open[-1] if self.open else ("", {})
        if tag == "script" and found.get("id") == "signoff":
            self.record = text
        elif tag == "data":
            self.shown.append((float(found["value"]), text))
        elif tag == "time":
            self.texts.append(found["datetime"])
        elif tag not in ("script", "style") and text.strip():
            self.texts.append(" ".join(text.split()))


def leaves(value):
    """Every number and every text of a JSON document, its keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    elif value is not None and not isinstance(value, bool):
        yield value


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A sign-off with all that a page can have to say."""
    folder = tmp_path_factory.mktemp("page")
    run = judged(folder / "run")
    record = read(run / "record.json", Record)
    rules = policies(
        folder / "policy.toml",
        record,
        lanes=["container", "sagemaker", "gpu"],
        waiver=[{"item": "build.pushed", "reason": "r", "owner": "o", "expires": SOON}],
        threshold=[{"measure": "image.bytes", "min": 1, "max": 9e12, "why": "small is quick"}],
    )

    class Silent:
        def readouterr(self):
            from types import SimpleNamespace

            return SimpleNamespace(out=(folder / "gate" / "signoff.json").read_text(), err="")

    common = ("--policies", rules, "--approver", "Ada")
    # An earlier image: its manifest has other bytes.
    other = run / "evidence" / "manifest.json"
    was = other.read_bytes()
    other.write_bytes(was + b" ")
    sealed_again(run)
    gate(folder, Silent(), run, "--policy", "good", *common)
    other.write_bytes(was)
    fails(run)
    on_a_gpu_machine(folder / "gpu")
    gate(folder, Silent(), run, folder / "gpu", "--policy", "other", *common)
    made = from_json((folder / "gate" / "signoff.json").read_bytes(), Signoff, "signoff.json")
    at = "2026-01-02T03:04:05+00:00"
    return replace(
        made,
        override=Override("the old one is worse", "Ada", at),
        released=Released("r.example/n", "1.2.3", DIGEST, "application/x", at),
    )


@pytest.fixture(scope="module")
def html(rich):
    views = tuple(Shown(v.name, PIXEL, PIXEL, PIXEL, v.psnr) for v in rich.measured.views)
    return page.render(rich, Media(views, "H4sI", job=rich.measured.views[0].job))


def test_every_number_is_found_in_the_record_that_the_page_embeds(html):
    found = Page(html)
    known = list(leaves(json.loads(found.record)))
    numbers = {float(x) for x in known if not isinstance(x, str)}
    texts = [" ".join(x.split()) for x in known if isinstance(x, str)]
    assert len(found.shown) > 50
    for value, shown in found.shown:
        assert value in numbers, f"{shown} stands for {value}, which the record has not"
        digits, _, unit = shown.replace(",", "").lstrip("+").partition(" ")
        assert float(digits) * UNITS.get(unit, 1) == pytest.approx(value, rel=0.006, abs=0.06)
    every = "\n".join(texts)
    for text in found.texts:
        for word in re.findall(r"\S*\d\S*", text):
            assert word.strip("“”.,;:()") in every, f"{word!r} of {text!r} is not in the record"


def test_it_needs_no_network_and_weighs_little(html):
    found = Page(html)
    assert all(a.startswith(("data:", "#")) for a in found.addresses)
    assert "http" not in re.sub(r"https://splats\.invalid/|http-equiv", "", shell(html))
    assert len(html.encode()) < 500_000


def shell(html):
    """The page without the record that it embeds, whose texts are the subject's own."""
    return re.sub(r'<script type="application/json".*?</script>', "", html, flags=re.S)


def test_it_can_be_read_without_seeing_it(html):
    found = Page(html)
    assert all(found.images)
    assert len(found.ids) == len(set(found.ids))
    assert '<html lang="en">' in html
    assert html.count("<h1") == 1
    assert all("aria-label" in svg for svg in re.findall(r"<svg[^>]*>", html))


def test_all_that_was_decided_is_told(html, rich):
    text = "\n".join(Page(html).texts)
    for said in (
        *(line.sentence for line in rich.lines),
        *(gap.command for gap in rich.missing),
        *(unseen.what for unseen in rich.never),
        *(waiver.reason for waiver in rich.waived),
        *(bound.threshold.why for bound in rich.bounds),
        rich.answer,
        "the old one is worse",
        "Released by override, in spite of the verdict",
        "Released as 1.2.3",
        DIGEST,
        rich.policy_sha256,
        rich.compared.digest,
    ):
        assert " ".join(said.split()) in text.replace("\n", " ") or said in text
    assert rich.compared.newly_failing


EVIL = "</script><!--<script>\x1b]52;c;eA==\x07\x1b[31m<img src=x onerror=alert(1)>\"&'|`@all"


def test_no_text_of_a_subject_breaks_out(rich):
    lines = tuple(
        replace(line, checks=tuple(replace(c, reason=EVIL) for c in line.checks))
        for line in rich.lines
    )
    evil = replace(rich, lines=lines, why=EVIL, approver=EVIL)
    found = Page(page.render(evil, Media(note=EVIL)))
    assert found.images == []
    assert json.loads(found.record)["why"] == EVIL
    assert "<" not in found.record
    assert "\x1b" not in markdown(evil) + junit(evil).decode() + page.render(evil, Media())
    assert "<img" not in markdown(evil)
    assert "@all" not in markdown(evil)
    assert b"<img" not in junit(evil)


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (7657263329, "bytes", "7.66 GB"),
        (300, "bytes", "300 bytes"),
        (3500, "count", "3,500"),
        (58.04, "s", "58.0 s"),
        (3600.0, "s", "3,600 s"),
        (19.3811, "dB", "19.38 dB"),
        (0.168796, "", "0.169"),
        (0, "count", "0"),
    ],
)
def test_numbers_are_told_as_people_read_them(value, unit, said):
    assert told(value, unit) == said


def test_a_line_that_was_not_asked_of_every_lane_does_not_read_as_held(rich):
    lines = tuple(
        replace(x, state="held", required=("container",), unasked=("gpu",)) for x in rich.lines
    )
    asked = replace(rich, lines=lines, policy_known=False)
    assert "held without GPU" in page.render(asked, Media())
    assert "held without GPU" in markdown(asked)
    assert "✅" not in markdown(asked)
    assert "policy was changed" in markdown(asked)


def test_verify_is_offered_only_for_what_is_signed(rich):
    assert "splatgate verify" not in page.render(rich, Media())
    assert "splatgate verify" in page.render(rich, Media(), signed=True)
