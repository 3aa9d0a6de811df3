"""The suite's own checks, over what a bundle holds: the image's config and the definition."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from splatgate import checklist as checklists
from splatgate.diagnose.bundle import Bundle, Finding, said
from splatgate.evidence import Header, Image, Machine, Pipeline, write
from splatgate.judge.in_process import judged
from splatgate.paths import DEFAULT_SCENE
from splatgate.pipeline.judge import judge
from splatgate.record import State

PIPELINE = "sagemaker.pipeline"
#: What of an image no config says: its size, and how its layers came about.
NOT_IN_CONFIG = ("build.supply-chain",)


def findings(bundle: Bundle) -> Iterator[Finding]:
    """What the checks refuse of the image, and the pipeline's judge of the definition.

    They may not be what went wrong here, and so only point to a line of the checklist; but an image
    without an entry point explains more than any message.
    """
    if bundle.config is not None:
        yield from _image(bundle.config)
    if bundle.definition is not None:
        broken = of_definition(bundle.definition, "the definition")
        if broken:
            yield Finding(
                PIPELINE,
                "The definition as deployed does not hold up.",
                "Judge it: `python -m splatgate pipeline FILE --input F`.",
                tuple(s for line in broken for s in said("definition", "the definition", line)),
                "points",
            )


def of_definition(definition: dict[str, Any], source: str) -> list[str]:
    """What the pipeline's judge finds in a definition, a line each."""
    verdict = judge(Pipeline(source, definition))
    return [f"{f.state}: {f.reason} ({f.rule})" for f in verdict.findings if f.level == "must"]


def image_of(config: dict[str, Any]) -> Image:
    """The image of a config JSON (a registry's blob, or `docker image inspect`)."""
    inner = config.get("config") or config.get("Config") or {}
    return Image(
        ref="the image of the bundle",
        image_id=str(config.get("Id") or "sha256:unknown"),
        manifest_digest=None,
        os=str(config.get("os") or config.get("Os") or "linux"),
        architecture=str(config.get("architecture") or config.get("Architecture") or ""),
        entrypoint=tuple(inner.get("Entrypoint") or ()),
        cmd=tuple(inner.get("Cmd") or ()),
        env=dict(entry.partition("=")[::2] for entry in inner.get("Env") or ()),
        user=str(inner.get("User") or ""),
        workdir=str(inner.get("WorkingDir") or "/"),
        labels=inner.get("Labels") or {},
        bytes=int(config.get("Size") or 0),
    )


def _image(config: dict[str, Any]) -> Iterator[Finding]:
    image = image_of(config)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="splatgate-diagnose-") as temporary:
        folder = Path(temporary)
        write(folder / "evidence.json", Header("diagnose", image.image_id, now, Machine()))
        write(folder / "image.json", image)
        record = judged(folder, DEFAULT_SCENE)
    items = checklists.load().by_id
    for check in record.checks:
        failed = check.state == State.FAILED and check.level == "must"
        if failed and check.item not in NOT_IN_CONFIG:
            yield Finding(
                check.item,
                check.reason.partition("\n")[0],
                items[check.item].remedy,
                said("image", f"image config, {check.node}", check.reason.partition("\n")[0]),
                "points",
            )
