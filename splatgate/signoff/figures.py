"""The page's figures: what was measured of the image and its training."""

from __future__ import annotations

from collections.abc import Mapping

from splatgate.signoff import markup
from splatgate.signoff.document import Signoff
from splatgate.signoff.markup import mono, number, section, table, text
from splatgate.signoff.measures import STEP_TIME, Curve
from splatgate.signoff.pictures import Media

#: Phases of a training job, as SageMaker names them, in their order.
PHASES = ("Starting", "Downloading", "Training", "Uploading")
#: Curves of the page, in this order: name as in a subject profile, title, unit.
CURVES = (
    ("train:loss", "Loss", ""),
    ("train:psnr", "Training PSNR", "dB"),
    ("test:psnr", "Held-out PSNR", "dB"),
    ("train:gaussians", "Gaussians", "count"),
    (STEP_TIME, "Step time", "ms"),
)


def quality(signoff: Signoff, media: Media) -> str:
    """Held-out views beside the photographs, and the splats themselves."""
    reported = {view.name: view for view in signoff.measured.views if view.job == media.job}
    made = []
    for view in media.views:
        known = reported.get(view.name)
        score = (
            f"<span>{number(known.psnr, 'dB')}</span><span>SSIM {number(known.ssim)}</span>"
            if known
            else ""
        )
        size = f'width="{known.width}" height="{known.height}"' if known else ""
        pictures = "".join(
            f'<img src="{uri}" alt="{what} of {text(view.name)}" {size}>'
            for what, uri in (
                ("photograph", view.photo),
                ("rendering", view.render),
                ("error", view.error),
            )
        )
        made.append(
            f'<figure><div class="three">{pictures}</div><figcaption><b>{text(view.name)}</b>'
            f"{score}</figcaption></figure>"
        )
    heads = "<div class=heads><span>photograph</span><span>rendering</span><span>error</span></div>"
    views = f'<div class="views">{heads}{"".join(made)}</div>' if made else ""
    turn = '<button type="button" id="turn">Turn the splats under the mouse</button>'
    # The viewer opens as the best view was seen.
    scores = {name: known.psnr for name, known in reported.items()}
    best = max(media.views, key=lambda view: scores.get(view.name, 0), default=None)
    poster = f'<img src="{best.render}" alt="rendering of {text(best.name)}">' if best else ""
    viewer = f'<div class="viewer">{poster}{turn}</div>' if media.viewer else ""
    note = f'<p class="lead">{text(media.note)}</p>' if media.note else ""
    lead = "Photographs that training never saw, and the model in the suite's own renderer: job "
    lead += job_name(signoff, media.job)
    return section("What it makes", viewer + views + note, lead if views else "", "quality")


def job_name(signoff: Signoff, key: str) -> str:
    """A job's key, and whether it ran outside the image."""
    beside = any(step.key == key and step.supporting for step in signoff.measured.steps)
    return text(key) + " <small>outside the image: supporting only</small>" * beside


def curves(signoff: Signoff) -> str:
    """Loss, quality, size and step time over the steps."""
    made = []
    for job in dict.fromkeys(c.job for c in signoff.measured.curves):
        mine: dict[str, Curve] = {c.name: c for c in signoff.measured.curves if c.job == job}
        drawn = [markup.chart(mine[n], title, unit) for n, title, unit in CURVES if n in mine]
        if drawn:
            made.append(
                f'<h3>{job_name(signoff, job)}</h3><div class="charts">{"".join(drawn)}</div>'
            )
    return section("How it trained", "".join(made), "Read from the jobs' own logs.", "curves")


def times(signoff: Signoff) -> str:
    """Where the seconds of each job went, against its budget."""
    rows = {}
    for step in signoff.measured.steps:
        parts = [(phase, step.phases[phase]) for phase in PHASES if phase in step.phases]
        budget = f" of {number(step.budget, 's')}" if step.budget else ""
        name = f"{job_name(signoff, step.key)} <small>{text(step.status)}</small>"
        rows[step.key] = (name, parts, number(step.seconds, "s") + budget)
    key = "".join(f'<li><i class="{phase}"></i>{phase}</li>' for phase in PHASES)
    body = by_job(signoff, rows, "seconds of each job")
    lead = "Seconds of each training job by phase, and the longest that its request allows."
    return section("Time", f'<ul class="key">{key}</ul>{body}' if rows else "", lead)


def by_job(signoff: Signoff, rows: Mapping[str, markup.Bar], label: str, full: float = 0.0) -> str:
    """Bars of the jobs that have curves, and folded away those that end early on purpose."""
    full = full or max((sum(v for _, v in row[1]) for row in rows.values()), default=0.0)
    drawn = {curve.job for curve in signoff.measured.curves}
    first = [row for key, row in rows.items() if key in drawn]
    rest = [row for key, row in rows.items() if key not in drawn]
    body = markup.bars(first, label, full) if first else ""
    if rest:
        inner = markup.bars(rest, f"{label}, the others", full)
        body += (
            f'<details class="folded"><summary>the other jobs, such as those that must fail '
            f"or are stopped</summary>{inner}</details>"
        )
    return body


def memory(signoff: Signoff) -> str:
    """The trainer's peak against the instance's memory."""
    rows = {
        step.key: (
            job_name(signoff, step.key),
            [("peak", float(step.peak))],
            f"{number(step.peak, 'bytes')} of {number(step.memory, 'bytes')}",
        )
        for step in signoff.measured.steps
        if step.peak and step.memory
    }
    lead = "Peak of the trainer's memory as it reports it, of what its instance leaves to it."
    full = max((s.memory or 0 for s in signoff.measured.steps), default=0)
    return section("Memory", by_job(signoff, rows, "peak memory", full), lead)


def architectures(signoff: Signoff) -> str:
    """Libraries with GPU code × instance types."""
    targets = signoff.measured.targets
    names = list(targets[0].libraries) if targets else []
    head = ["Library"] + [
        f'<span title="compute capability">{text(t.instance)}<br>{text(t.gpu)}, sm {number(t.sm)}'
        f"{'<br><b>declared</b>' if t.declared else ''}</span>"
        for t in targets
    ]
    rows = []
    for name in names:
        cells = [mono("/".join(name.split("/")[-2:]))]
        for target in targets:
            kind = "yes" if target.libraries[name] else "no" if target.declared else "off"
            word = "✓ runs" if target.libraries[name] else "✕ no code" if target.declared else "–"
            cells.append(f'<span class="{kind}">{word}</span>')
        rows.append(cells)
    lead = "Whether each library holds machine code that runs on the GPU of an instance type."
    return section("GPU code", table(head, rows, "matrix") if rows else "", lead)


def layers(signoff: Signoff) -> str:
    """Size of the image by layer, the large ones first."""
    sized = sorted((x for x in signoff.measured.layers if x["bytes"]), key=lambda x: -x["bytes"])
    rows = [
        (
            f'<span title="{text(x["created_by"])}">{text(shortened(x["created_by"]))}</span>',
            [("layer", float(x["bytes"]))],
            number(x["bytes"], "bytes"),
        )
        for x in sized
    ]
    return section("Size by layer", markup.bars(rows, "bytes of each layer") if rows else "")


def shortened(created_by: str) -> str:
    """What a layer does, without what every layer says."""
    said = created_by.removeprefix("RUN /bin/sh -c ").removesuffix(" # buildkit").strip()
    return said.removeprefix("/bin/sh -c #(nop) ") or "base"


#: What a page shows of the measurements, in this order.
MEASURED = (curves, times, memory, architectures, layers)
