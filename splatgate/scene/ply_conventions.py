"""Other ways to read a ``.ply`` than the layout's: the exporter's likely mistakes, undone.

A file that renders better under another reading than under the layout's was written that way, and
no viewer will know. It is a known-answer test whose answer the photographs know.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from splatgate.scene.colmap import Scene
from splatgate.scene.splats import SH_C0, Splats
from splatgate.scene.truth import Colour, fit, held_out, mean_psnr

#: Training photographs looked at, spread over the names, and their longest side in pixels.
_VIEWS, _SIDE = 3, 160
LAYOUT = "the layout's"


def read(splats: Splats) -> dict[str, Splats]:
    """Each other reading of a file, by what the exporter did; those that change nothing left out.

    ``bands interleaved``: f_rest colour by colour within a band; ``rotations x y z w``;
    ``colours without the constant``: f_dc holds rgb - 0.5.
    """
    count, bands = splats.shN.shape[:2]
    # As stored, channel-major, taken for coefficient-major.
    stored = splats.shN.transpose(0, 2, 1).reshape(count, bands, 3)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        others = {
            "bands interleaved": replace(splats, shN=np.ascontiguousarray(stored)),
            "rotations x y z w": replace(splats, quats=np.roll(splats.quats, 1, axis=1)),
            "colours without the constant": replace(
                splats, sh0=(splats.sh0 / SH_C0).astype(np.float32)
            ),
        }
    return {name: found for name, found in others.items() if bands or name != "bands interleaved"}


def compare(splats: Splats, scene: Scene, background: Colour = (0.0, 0.0, 0.0)) -> dict[str, float]:
    """Mean PSNR in dB over some training photographs of every reading, the layout's first."""
    hidden = set(held_out([view.name for view in scene.views]))
    shown = [view for view in scene.views if view.name not in hidden]
    chosen = shown[:: max(len(shown) // _VIEWS, 1)][:_VIEWS]
    sizes = [(view.name, *fit(view.width, view.height, _SIDE)) for view in chosen]
    return {
        name: mean_psnr(found, scene, sizes, background)
        for name, found in {LAYOUT: splats, **read(splats)}.items()
    }
