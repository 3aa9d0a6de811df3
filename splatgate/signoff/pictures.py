"""Pictures for the page: held-out views beside the ground truth, and the splats themselves.

Everything is made anew from the evidence: the views by the suite's own renderer, the viewer by the
compression stage's tool.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture

from splatgate.evidence import BadInput, Job
from splatgate.evidence.missing import NotVerified
from splatgate.judge.fixtures.jobs import outputs
from splatgate.scene.colmap import Scene, View, load_scene
from splatgate.scene.photos import load_photo, psnr
from splatgate.scene.render import render
from splatgate.scene.splats import check_layout, read_splats
from splatgate.signoff.measures import legible, metrics_of, views_of
from splatgate.sources.recorded import Recorded

Say = Callable[[str], None]
#: Views that the page shows.
VIEWS = 6
#: Widest picture, pixels; larger ones would make a page that no mail takes.
WIDEST = 480
#: Largest viewer that the page holds, bytes compressed; a larger one is left out, with a word.
VIEWER = 20_000_000
#: How far behind the photographer the viewer stands, of the scene's depth.
BACK = 0.8
#: Error at which the map is at its brightest, of a colour range of 1.
BRIGHTEST = 0.5


@dataclass(frozen=True)
class Shown:
    """One held-out view as data URIs: photograph, rendering, and the error between them."""

    name: str
    photo: str
    render: str
    error: str
    #: PSNR in dB as the suite measures it from the artefact.
    psnr: float


@dataclass(frozen=True)
class Media:
    """What the page shows besides text."""

    views: tuple[Shown, ...] = ()
    #: The viewer's page, gzip, base64.
    viewer: str = ""
    #: Why views or splats are not shown.
    note: str = ""
    #: Key of the job whose model it is.
    job: str = ""


def collect(folders: Sequence[Path], scene: Path, say: Say) -> Media:
    """Pictures of the first training job that meant its quality: of the first folder that has one,
    the GPU's before the CPU's.
    """
    jobs = [
        (folder, path.parent)
        for folder in folders
        for name in ("gpu", "truth")
        for path in sorted(folder.glob(f"jobs/{name}-*/job.json"))
    ]
    note = "no training job left a model"
    for folder, path in jobs:
        job = legible(path / "job.json", Job)
        if job is None or job.status != "Completed":
            continue
        door = Recorded(folder, scene)
        try:
            profile = door.profile()
            model = door.artefact(job, outputs(profile).model)
            if model is None or check_layout(model):
                continue
            reported = views_of(job.key, metrics_of(path, profile), profile)
            seen = load_scene(door.scene())
        except (BadInput, NotVerified) as error:
            note = str(error)
            continue
        splats = read_splats(model)
        seen = seen.about(splats.origin)
        chosen = reported[:: -(-len(reported) // VIEWS) or 1]
        shown = []
        for number, view in enumerate(chosen, 1):
            say(f"rendering view {number} of {len(chosen)} for the page")
            scale = min(1.0, WIDEST / view.width)
            width, height = round(view.width * scale), round(view.height * scale)
            at = seen.view(view.name)
            photo = load_photo(at, width, height)
            image = render(splats, at.resized(width, height), profile.metrics.background)
            shown.append(
                Shown(
                    view.name,
                    uri(photo),
                    uri(image),
                    uri(heat(image, photo)),
                    psnr(image, photo),
                )
            )
        best = max(reported, key=lambda view: view.psnr, default=None)
        viewer, why = view_html(model, seen, seen.view(best.name) if best else None, say)
        return Media(tuple(shown), viewer, why, job.key)
    return Media(note=note)


def uri(image: npt.NDArray[Any]) -> str:
    """An image [h,w,3] in [0, 1] as a data URI."""
    pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    data = io.BytesIO()
    Picture.fromarray(pixels).save(data, "WEBP", quality=88, method=6)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


def heat(image: npt.NDArray[Any], photo: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The error of each pixel [h,w,3]: black where there is none, through red to white."""
    error = np.abs(np.clip(image, 0, 1) - photo).mean(axis=2) / BRIGHTEST
    channels = np.stack([error * 3, error * 3 - 1, error * 3 - 2], axis=2)
    found: npt.NDArray[np.float32] = np.clip(channels, 0, 1).astype(np.float32)
    return found


def stand(scene: Scene, view: View) -> tuple[str, dict[str, Any]]:
    """A turn of the model and settings of the viewer by which it opens as ``view`` saw the scene.

    The viewer's world has y up and is the file's turned by 180 degrees about z; the tool turns in
    the viewer's world, about x, then y, then z. The camera stands upright when the world is turned
    to its axes.
    """
    flip = np.diag([-1.0, -1.0, 1.0])
    turn = flip @ view.R @ flip
    x, y = math.atan2(turn[2, 1], turn[2, 2]), -math.asin(float(np.clip(turn[2, 0], -1, 1)))
    z = math.atan2(turn[1, 0], turn[0, 0])
    depths = scene.points_xyz @ view.R[2] + view.t[2]
    depth = float(np.median(depths[depths > 0])) if (depths > 0).any() else 1.0
    at = flip @ -view.t - [0, 0, BACK * depth]
    settings = {
        "camera": {
            "position": at.tolist(),
            "target": [*at[:2].tolist(), float(at[2]) + (1 + BACK) * depth],
            "fov": math.degrees(2 * math.atan(view.height / 2 / float(view.K[1, 1]))),
            "startAnim": "none",
        },
        "background": {"color": [0.06, 0.07, 0.08]},
        "animTracks": [],
    }
    return ",".join(f"{math.degrees(angle):.6f}" for angle in (x, y, z)), settings


def view_html(model: Path, scene: Scene, view: View | None, say: Say) -> tuple[str, str]:
    """The viewer of a model as the compression stage's tool writes it, or why there is none."""
    from splatgate.sagemaker import compression

    try:
        tool = compression.install(say)
        with tempfile.TemporaryDirectory() as name:
            say("writing the viewer of the splats")
            options: tuple[str, ...] = ()
            if view is not None:
                angles, settings = stand(scene, view)
                (Path(name) / "settings.json").write_text(json.dumps(settings))
                options = ("-r", angles, "-E", "settings.json")
            done = compression.run(tool, Path(name), model, "splats.html", options)
            if done.exit:
                return "", f"the viewer could not be written: {done.stderr}"
            data = gzip.compress((Path(name) / "splats.html").read_bytes(), 9, mtime=0)
    except NotVerified as error:
        return "", f"no viewer: {error}"
    if len(data) > VIEWER:
        return "", "the splats are too many for this page; write the viewer with splat-transform"
    return base64.b64encode(data).decode(), ""
