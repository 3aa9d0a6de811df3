"""Verb ``clean``: what of ours this machine holds, and its removal."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from splatgate.container import engine, starting, sweep
from splatgate.evidence import unwritable
from splatgate.paths import ROOT
from splatgate.verdict import EXIT_NO_JUDGEMENT

#: Begin the tags of all images that are made here.
TAGS = "splatgate/"
#: In the engine's words on a layer of a build: paths of our Dockerfile's own steps.
STEPS = ("/mnt/apt-install.sh", "/mnt/pip", "/mnt/wheels", "/opt/tools", "/opt/trainer")
#: Below build/, and no clean-up's to remove: the store of sign-offs.
KEPT = "signoffs"
CACHES = (".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis")


@dataclass(frozen=True)
class Thing:
    """Something of ours. ``remove`` None: it is in use, or another's as well."""

    kind: str
    name: str
    bytes: int
    remove: Callable[[], Any] | None
    note: str = ""


def main(argv: Sequence[str]) -> int:
    """List what is there; with ``--yes`` remove it."""
    parser = argparse.ArgumentParser(
        prog="splatgate clean",
        description="Say what Splatgate holds on this machine: images, containers, volumes, build "
        f"cache, folders. build/{KEPT} stays. Exit status 0, or 3 where something cannot be "
        "removed.",
    )
    parser.add_argument("--yes", action="store_true", help="remove it")
    asked = parser.parse_args(argv)
    things: list[Thing] = []
    try:
        client = engine.client()
        # The connection's own limit is for calls that answer at once.
        client.api.timeout = engine.EXPORT_SECONDS
        things += in_engine(client)
    except engine.EngineError as error:
        sys.stdout.write(f"no engine: {error.what}; what one holds is not seen\n")
    things += in_folders(ROOT, running=bool(starting.ticks_of_ours()))
    for thing in things:
        size = f"{thing.bytes / 1e9:8.2f} GB"
        note = f"  ({thing.note})" if thing.note else ""
        sys.stdout.write(f"{thing.kind:<12}{size}  {thing.name}{note}\n")
    ours = [thing for thing in things if thing.remove]
    total = f"{len(ours)} things, {sum(thing.bytes for thing in ours) / 1e9:.2f} GB"
    if asked.yes:
        stays = [thing for thing in ours if not _removed(thing)]
        sys.stdout.write(f"removed {len(ours) - len(stays)} of {total}\n")
        return EXIT_NO_JUDGEMENT if stays else 0
    sys.stdout.write(f"{total}; to remove them: python -m splatgate clean --yes\n")
    return 0


def _removed(thing: Thing) -> bool:
    """Remove a thing, or say why it stays: the engine's own errors are OSErrors, too."""
    try:
        return thing.remove is not None and thing.remove() is not False
    except OSError as error:
        sys.stderr.write(f"{thing.kind} {thing.name} stays: {unwritable(error)}\n")
        return False


def in_engine(client: Any) -> Iterator[Thing]:
    """What the engine holds of ours."""
    for kind, items in sweep.found(client, sweep.CONTROLLER_LABEL).items():
        for item in items:
            gone = sweep.is_gone(sweep.labels_of(item).get(sweep.CONTROLLER_LABEL, ""))
            remove = partial(sweep.discard, item) if gone else None
            yield Thing(kind, item.name, 0, remove, "" if gone else "of a run under way")
    for image in client.images.list():
        own = [tag for tag in image.tags if tag.startswith(TAGS)]
        for tag in own:
            # Its size counts once; another name of the same image stays.
            size = image.attrs["Size"] if tag == own[0] else 0
            note = "" if own == image.tags else "stays under its other names"
            yield Thing("image", tag, size, partial(client.images.remove, tag), note)
    cache = client.df().get("BuildCache") or ()
    mine = [one for one in cache if any(step in one["Description"] for step in STEPS)]
    # What an image shares goes with the image.
    size = sum(one["Size"] for one in mine if not one["Shared"])
    if mine:
        yield Thing("build cache", f"{len(mine)} steps", size, partial(_prune, client, mine))
    if rest := sum(one["Size"] for one in cache if one not in mine and not one["Shared"]):
        yield Thing("build cache", "of other builds", rest, None, "docker builder prune")


def _prune(client: Any, cache: Sequence[dict[str, Any]]) -> None:
    for one in cache:
        client.api.prune_builds(filters={"id": [one["ID"]]}, all=True)


def in_folders(root: Path, *, running: bool) -> Iterator[Thing]:
    """What a checkout holds that was made there; the environment that may run this comes last."""
    build = root / "build"
    for path in (*sorted(build.glob("*")), *(root / name for name in (*CACHES, ".tox"))):
        if path.name == KEPT or not path.exists():
            continue
        in_use = running and path == starting.FOLDER
        remove = None if in_use else partial(_delete, path)
        note = "its engine runs: python -m splatgate stop-engine" if in_use else ""
        yield Thing("folder", str(path), _size(path), remove, note)


def _size(path: Path) -> int:
    return sum(p.lstat().st_size for p in (path, *path.rglob("*")) if not p.is_dir())


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
