"""Virtual views: what several models agree on, drawn where nobody took a photograph.

Models of other seeds err in unlike ways where the photographs leave them free, and the mean of
their renders errs less than each. A model that is trained on it comes near to that mean, which
training on the photographs alone does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trainer.rasterise import View, painter
from trainer.stop import Stop

#: Views for each photograph, and at most.
_EACH, _MOST = 6, 96
#: A camera moves towards one of so many nearest by up to this share of the way.
_NEAREST, _REACH = 4, 0.7
#: Standard deviations of what is added: of the nearest's distance along each axis, and radians.
_ASIDE, _TURN = 0.15, 0.03
#: Half-way between cameras turned further against each other than this, radians, is no camera.
_LIKE = math.pi / 3


def count(photographs: int) -> int:
    """How many virtual views there are for so many photographs."""
    return min(_EACH * photographs, _MOST)


def cameras(views: Sequence[View], seed: int) -> list[tuple[View, Tensor]]:
    """Cameras among those of ``views``: the view each comes from, and its (4, 4) viewmat."""
    draw = torch.Generator().manual_seed(seed)
    poses = torch.stack([v.viewmat.cpu().double() for v in views])
    turns = poses[:, :3, :3].transpose(1, 2)
    centres = -(turns @ poses[:, :3, 3:])[..., 0]
    apart = torch.cdist(centres, centres).fill_diagonal_(math.inf)
    found = []
    for _ in range(count(len(views)) if len(views) > 1 else 0):
        of = int(torch.randint(len(views), (), generator=draw))
        near = apart[of].argsort()[:_NEAREST]
        other = int(near[torch.randint(len(near[: len(views) - 1]), (), generator=draw)])
        way = _REACH * float(torch.rand((), generator=draw))
        moved = torch.randn(3, generator=draw, dtype=torch.float64) * _ASIDE * apart[of].min()
        turn = turns[of]
        if float((turns[of].T @ turns[other]).trace()) > 1 + 2 * math.cos(_LIKE):
            left, _, right = torch.linalg.svd((1 - way) * turns[of] + way * turns[other])
            turn = left @ right
        x, y, z = (torch.randn(3, generator=draw, dtype=torch.float64) * _TURN).tolist()
        skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
        viewmat = torch.eye(4, dtype=torch.float64)
        viewmat[:3, :3] = (turn @ torch.linalg.matrix_exp(skew)).T
        centre = centres[of] + way * (centres[other] - centres[of]) + moved
        viewmat[:3, 3] = -viewmat[:3, :3] @ centre
        found.append((views[of], viewmat.float().to(views[of].viewmat.device)))
    return found


@torch.no_grad()
def drawn(
    views: Sequence[View], models: Sequence[Mapping[str, Tensor]], seed: int, stop: Stop
) -> list[View]:
    """Virtual views among ``views``, each with the mean of what ``models`` draw as its photograph.

    ``models`` as in ``Splats.values``, on the views' device. A request to stop ends it early.
    """
    painters = [painter(model) for model in models]
    found: list[View] = []
    for view, viewmat in cameras(views, seed):
        if stop.asked is not None:
            break
        # By its name a step knows its camera.
        own = replace(view, name=f"virtual {len(found) + 1}", viewmat=viewmat, mask=None)
        images = [paint(own).clamp(0, 1) for paint in painters]
        pixels = (torch.stack(images).mean(0) * 255).round().byte()
        found.append(replace(own, pixels=pixels.to(view.pixels.device)))
    return found
