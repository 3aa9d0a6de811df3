"""What a job takes of its instance, reckoned by the profile's model or by the least there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splatgate.instances import INSTANCES
from splatgate.sagemaker.capacity import needs, parameter
from splatgate.sagemaker.request import smoke_request
from splatgate.scene.colmap import Scene, View
from splatgate.subject import Effects, Memory, Profile

T4 = INSTANCES["ml.g4dn.xlarge"]
PROFILE = Profile(1, "p", effects=Effects(gaussians="cap", image_size="side"))


def flight(tmp_path: Path, count: int, width: int, height: int) -> Scene:
    """A scene of a size: nothing but views, and a file of 1,000 bytes."""
    (tmp_path / "file").write_bytes(bytes(1000))
    eye = np.eye(3)
    views = tuple(View(f"{n}.jpg", width, height, eye, eye, eye[0]) for n in range(count))
    empty = np.zeros((0, 3))
    return Scene(tmp_path, tmp_path, (), views, np.zeros((7, 3)), empty, empty[:, 0], empty[:, 0])


def need(kind, request, scene, profile=PROFILE, instance=T4):
    return next(n for n in needs(request, instance, scene, profile) if n.kind == kind)


def test_photographs_count_at_the_size_asked_for(tmp_path):
    scene = flight(tmp_path, 100, 6000, 4000)
    whole, half, unknown = (
        need("memory", smoke_request(hyperparameters=h), scene).parts["photographs"]
        for h in ({"side": "6000"}, {"side": "3000"}, {})
    )
    assert (whole, half, unknown) == (100 * 24_000_000 * 3, 100 * 6_000_000 * 3, 0)


def test_a_trainer_that_keeps_them_whole_pays_for_them_whole(tmp_path):
    """K30: four hundred photographs of 24 megapixels, on a host of 16 GB."""
    keeps = replace(PROFILE, memory=Memory(photo_pixel=3, full_size=True))
    found = need(
        "memory", smoke_request(hyperparameters={"side": "800"}), flight(tmp_path, 400, 6000, 4000),
        keeps,
    )  # fmt: skip
    assert found.total > found.have
    assert "of it for photographs" in str(found)


def test_an_instance_store_is_not_enlarged_by_the_volume(tmp_path):
    request = replace(smoke_request(), volume_gb=1000)
    assert need("disk", request, flight(tmp_path, 3, 60, 40)).have == 125 * 10**9
    v100 = INSTANCES["ml.p3.2xlarge"]
    assert need("disk", request, flight(tmp_path, 3, 60, 40), instance=v100).have == 1000 * 10**9


def test_gaussians_are_those_asked_for_else_the_points(tmp_path):
    scene = flight(tmp_path, 3, 60, 40)
    asked = need("GPU memory", smoke_request(hyperparameters={"cap": "1e6"}), scene)
    assert asked.parts["Gaussians"] == 944 * 10**6
    assert need("GPU memory", smoke_request(), scene).parts["Gaussians"] == 944 * 7


@pytest.mark.parametrize(("text", "value"), [('"12"', 12), ("1e3", 1000), ("many", None)])
def test_parameters_are_read_in_both_dialects(text, value):
    assert parameter(smoke_request(hyperparameters={"cap": text}), "cap") == value
    assert parameter(smoke_request(environment={"CAP": text}), "cap") == value
    assert parameter(smoke_request(), "cap") is None
    assert parameter(smoke_request(), None) is None
