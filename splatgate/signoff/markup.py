"""Pieces of HTML and SVG. Every number is written with the value that it stands for, so that a test
can find each one of the page in the record that the page embeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from splatgate.evidence.text import plain
from splatgate.record import State
from splatgate.signoff.measures import Curve

#: Decimal units by the power of ten at which they start.
BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
GLYPHS = {State.HELD: "✓", State.FAILED: "✕", State.BLOCKED: "■", State.NOT_VERIFIED: "○"}
WORDS = {
    State.HELD: "held",
    State.PASSED: "passed",
    State.FAILED: "failed",
    State.BLOCKED: "blocked",
    State.NOT_VERIFIED: "not verified",
}
#: Size of a chart, in its own units.
WIDE, HIGH = 320.0, 120.0


def text(value: object) -> str:
    """Text, escaped."""
    return escape(plain(str(value)))


def told(value: float, unit: str = "") -> str:
    """A number as people read it: three or four significant digits, with its unit."""
    if unit == "bytes":
        size, word = next((s, w) for s, w in BYTES if abs(value) >= s or s == 1.0)
        return f"{value / size:.3g} {word}" if size > 1 else f"{value:.0f} {word}"
    if unit == "count" or (float(value).is_integer() and abs(value) >= 1000):
        return f"{value:,.0f}" + (f" {unit}" if unit not in ("", "count") else "")
    digits = f"{value:.2f}" if unit == "dB" else f"{value:.1f}" if unit == "s" else f"{value:.3g}"
    return f"{digits} {unit}" if unit else digits


def number(value: float, unit: str = "", sign: bool = False) -> str:
    """A number with the value that it stands for."""
    shown = told(value, unit)
    plus = "+" if sign and value > 0 else ""
    return f'<data value="{value!r}">{plus}{text(shown)}</data>'


def when(iso: str) -> str:
    """A moment, to the minute."""
    shown = f"{iso[:10]} {iso[11:16]} UTC" if iso[10:11] == "T" else iso
    return f'<time datetime="{text(iso)}">{text(shown)}</time>'


def mono(value: str) -> str:
    """Something to compare letter by letter."""
    return f'<span class="mono">{text(value)}</span>'


def state(value: State, word: str | None = None) -> str:
    """A state as a mark and a word; colour says it a third time."""
    said = word or WORDS[value]
    # Held where it was asked, and not asked everywhere.
    glyph = "◐" if said.startswith("held ") else GLYPHS.get(value, "✓")
    return f'<span class="state {value}"><i aria-hidden="true">{glyph}</i> {text(said)}</span>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of ready HTML cells. A ``matrix`` scrolls by itself on a narrow screen."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    # On a narrow screen each cell stands below the other, under its own head.
    names = [f' data-head="{cell}"' if cell and "<" not in cell else "" for cell in head]
    body = "".join(
        "<tr>"
        + f'<th scope="row">{row[0]}</th>'
        + "".join(f"<td{name}>{c}</td>" for name, c in zip(names[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    inner = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll {kind}" tabindex="0" role="group">{inner}</div>'


def section(title: str, body: str, lead: str = "", name: str = "") -> str:
    """A section of the page, or nothing where there is nothing to say."""
    if not body:
        return ""
    known = name or title.lower().replace(" ", "-")
    lead = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{known}"><h2>{text(title)}</h2>{lead}{body}</section>\n'


def command(line: str) -> str:
    """A command to copy."""
    return (
        f'<div class="command"><code>{text(line)}</code><button type="button">copy</button></div>'
    )


def chart(curve: Curve, title: str, unit: str = "") -> str:
    """A curve over the steps, its axes labelled with the values that it reaches."""
    low, high = min(curve.values), max(curve.values)
    first, last = curve.steps[0], curve.steps[-1]
    span, reach = (high - low) or 1.0, (last - first) or 1.0
    points = [
        (WIDE * (s - first) / reach, HIGH - HIGH * (v - low) / span)
        for s, v in zip(curve.steps, curve.values, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    end = curve.values[-1]
    x, y = points[-1]
    words = f"{title}: from {told(curve.values[0], unit)} to {told(end, unit)} over the steps"
    svg = (
        f'<svg viewBox="-6 -8 {WIDE + 14:g} {HIGH + 16:g}" role="img" aria-label="{text(words)}">'
        f'<path class="frame" d="M0 0V{HIGH:g}H{WIDE:g}"/>'
        f'<polygon class="area" points="0,{HIGH:g} {line} {WIDE:g},{HIGH:g}"/>'
        f'<polyline class="line" points="{line}"/>'
        f'<circle class="end" cx="{x:.1f}" cy="{y:.1f}" r="4"/></svg>'
    )
    return (
        f'<figure class="chart"><figcaption><span>{text(title)}</span>'
        f"<strong>{number(end, unit)}</strong></figcaption>"
        f'<div class="plot"><div class="axis"><span>{number(high, unit)}</span>'
        f"<span>{number(low, unit)}</span></div>{svg}</div>"
        f'<div class="steps"><span>step {number(first, "count")}</span>'
        f"<span>{number(last, 'count')}</span></div></figure>"
    )


#: A bar: its name, its parts with class and length, and a note.
Bar = tuple[str, Sequence[tuple[str, float]], str]


def bars(rows: Sequence[Bar], label: str, full: float = 0.0) -> str:
    """Stacked bars on one scale. ``full`` is the length of a full bar; by default the longest."""
    longest = full or max((sum(v for _, v in parts) for _, parts, _ in rows), default=0.0) or 1.0
    made = []
    for name, parts, note in rows:
        inner = "".join(
            f'<i class="{kind}" style="width:{100 * value / longest:.2f}%"></i>'
            for kind, value in parts
            if value > 0
        )
        made.append(
            f'<li><span class="name">{name}</span>'
            f'<span class="bar" aria-hidden="true">{inner}</span>'
            f'<span class="note">{note}</span></li>'
        )
    return f'<ul class="bars" aria-label="{text(label)}">{"".join(made)}</ul>'
