"""Each variant of a scene is what its name says, by the scene judge's own word."""

import shutil

import pytest

from splatgate.evidence import BadInput
from splatgate.paths import DEFAULT_SCENE
from splatgate.sagemaker import variants
from splatgate.scene.colmap import load_scene
from splatgate.scene.judge import judge_scene


@pytest.mark.parametrize("name", variants.REFUSED)
def test_the_judge_knows_each_unsound_variant_by_its_code(tmp_path, name):
    variants.make(DEFAULT_SCENE, name, tmp_path / name)
    found = judge_scene(tmp_path / name)
    assert (found.ok, found.code) == (False, variants.REFUSED[name]), found.reason


def test_legal_oddities_are_sound_and_lose_nothing(tmp_path):
    variants.make(DEFAULT_SCENE, "oddities", tmp_path / "oddities")
    found, good = judge_scene(tmp_path / "oddities"), judge_scene(DEFAULT_SCENE)
    assert found.ok, found.reason
    assert (found.images, found.points, found.observations) == (
        good.images,
        good.points,
        good.observations,
    )
    assert found.model == "sparse"


def test_a_model_as_text_is_the_same_model(tmp_path):
    shutil.copytree(DEFAULT_SCENE / "sparse", tmp_path / "sparse")
    before = load_scene(DEFAULT_SCENE)
    variants.as_text(tmp_path)
    after = load_scene(tmp_path)
    assert [v.name for v in after.views] == [v.name for v in before.views]
    assert (after.points_xyz == before.points_xyz).all()
    assert (after.track_lengths == before.track_lengths).all()
    assert all((a.R == b.R).all() for a, b in zip(after.views, before.views, strict=True))


def test_an_unknown_variant_is_refused_by_name(tmp_path):
    with pytest.raises(BadInput, match="no variant 'x'"):
        variants.make(DEFAULT_SCENE, "x", tmp_path / "x")
    assert not (tmp_path / "x").exists()
