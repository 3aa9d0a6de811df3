"""Reading a .ply strictly, and telling logits and logarithms from activated values."""

from __future__ import annotations

import dataclasses

import numpy as np
import plyfile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splatgate.evidence import BadInput
from splatgate.scene.splats import (
    SH_C0,
    Splats,
    check_layout,
    check_logits,
    read_splats,
    write_splats,
)


def make_splats(count=400, degree=3, seed=0, unit=1.0):
    """Splats as training leaves them, in a scene whose points lie about ``unit`` apart."""
    draw = np.random.default_rng(seed)
    values = {
        "means": draw.uniform(0, count ** (1 / 3), (count, 3)) * unit,
        "quats": draw.normal(size=(count, 4)),
        "scales": draw.normal(-0.7, 1.2, (count, 3)) + np.log(unit),
        "opacities": draw.normal(-1, 2.5, count),
        "sh0": draw.normal(0, 0.8, (count, 1, 3)),
        "shN": draw.normal(0, 0.1, (count, (degree + 1) ** 2 - 1, 3)),
    }
    return Splats(**{name: value.astype(np.float32) for name, value in values.items()})


@pytest.fixture
def ply(tmp_path):
    path = tmp_path / "point_cloud.ply"
    write_splats(path, make_splats(count=5))
    return path


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_is_written_is_read_back(tmp_path, degree):
    splats = make_splats(count=7, degree=degree)
    path = tmp_path / "a.ply"
    write_splats(path, splats)
    assert check_layout(path) == []
    back = read_splats(path)
    assert back.degree == degree
    for field in dataclasses.fields(Splats):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(splats, field.name))


def test_another_reader_finds_channel_major_bands_and_w_first(ply):
    splats = read_splats(ply)
    vertex = plyfile.PlyData.read(ply)["vertex"]
    np.testing.assert_array_equal(vertex["f_rest_0"], splats.shN[:, 0, 0])
    np.testing.assert_array_equal(vertex["f_rest_15"], splats.shN[:, 0, 1])
    np.testing.assert_array_equal(vertex["f_rest_44"], splats.shN[:, 14, 2])
    np.testing.assert_array_equal(vertex["rot_0"], splats.quats[:, 0])
    np.testing.assert_array_equal(vertex["opacity"], splats.opacities)


def edit(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"ply\n", b"plx\n", "not a PLY"),
        (b"binary_little_endian", b"binary_big_endian", "binary_little_endian"),
        (b"binary_little_endian", b"ascii", "binary_little_endian"),
        (b"element vertex 5", b"element vertex 6", "cut short"),
        (b"element vertex 5", b"element vertex 4", "beyond"),
        (b"element vertex 5", b"element vertex 0", "no vertices"),
        (b"element vertex 5", b"element vertex -5", "how many"),
        (b"element vertex 5", b"element vertex 99999999999999", "cut short"),
        (b"element vertex 5", b"element face 5", "one element"),
        (b"end_header", b"element face 0\nend_header", "one element"),
        (b"end_header", b"end_hea", "end_header"),
        (b"property float opacity\n", b"", "missing properties: opacity"),
        (b"property float x\n", b"property double x\n", "must be float"),
        (b"property float x\n", b"property list uchar int x\n", "scalar"),
        (b"float rot_3\n", b"float rot_3\nproperty float filter_3D\n", "unknown properties"),
        (b"float rot_3\n", b"float rot_3\nproperty float rot_3\n", "twice"),
        (b"float f_rest_44\n", b"float f_rest_45\n", "missing properties: f_rest_44"),
        (b"property float f_rest_44\n", b"", "44 f_rest"),
        (b"property float y\nproperty float z\n", b"property float z\nproperty float y\n", "order"),
        (b"property float ny\n", b"", "missing properties: ny"),
    ],
)
def test_a_broken_header_is_named(ply, old, new, said):
    edit(ply, old, new)
    (problem,) = check_layout(ply)
    assert said in problem
    with pytest.raises(BadInput, match="INRIA"):
        read_splats(ply)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"element vertex", b"comment made by SuperSplat\nobj_info 1\nelement vertex"),
        (b"property float opacity", b"property float32 opacity"),
    ],
    ids=["comments", "float32"],
)
def test_legal_oddities_pass(ply, old, new):
    edit(ply, old, new)
    assert check_layout(ply) == []


def test_normals_may_be_absent(tmp_path):
    splats = make_splats(count=3, degree=0)
    with_normals, without = tmp_path / "a.ply", tmp_path / "b.ply"
    write_splats(with_normals, splats)
    header, body = with_normals.read_bytes().split(b"end_header\n")
    for name in (b"nx", b"ny", b"nz"):
        header = header.replace(b"property float %s\n" % name, b"")
    table = np.delete(np.frombuffer(body, "<f4").reshape(3, -1), [3, 4, 5], axis=1)
    without.write_bytes(header + b"end_header\n" + table.tobytes())
    assert check_layout(without) == []
    np.testing.assert_array_equal(read_splats(without).quats, splats.quats)


def test_values_that_are_no_numbers_are_counted(tmp_path):
    splats = make_splats(count=5)
    splats.opacities[1:3] = np.nan
    splats.means[0, 2] = np.inf
    path = tmp_path / "a.ply"
    write_splats(path, splats)
    said = check_layout(path)
    assert said == [
        "z is not finite in 1 of 5 vertices",
        "opacity is not finite in 2 of 5 vertices",
    ]


def test_no_file_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        check_layout(tmp_path / "none.ply")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_ends_in_a_problem_or_in_splats(ply, data):
    """Whatever a file holds, it is judged; nothing else is ever raised."""
    whole = ply.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    blob = data.draw(st.one_of(st.just(b""), st.binary(max_size=12)))
    length = data.draw(st.sampled_from([0, 1, 7, 10**6]))
    other = ply.with_name("damaged.ply")
    other.write_bytes(whole[:at] + blob + whole[at + length :])
    if not check_layout(other):
        assert len(read_splats(other)) == 5


UNITS = [1e-3, 0.03, 0.3, 1.0, 3.0, 30.0, 3000.0]


@pytest.mark.parametrize("unit", UNITS)
def test_sound_splats_pass_in_any_unit(unit):
    assert check_logits(make_splats(unit=unit)) == []


@pytest.mark.parametrize("unit", UNITS)
def test_activated_scales_are_found_in_any_unit(unit):
    splats = make_splats(unit=unit)
    (problem,) = check_logits(dataclasses.replace(splats, scales=np.exp(splats.scales)))
    assert "after exp" in problem


def test_activated_opacities_are_found():
    splats = make_splats()
    activated = dataclasses.replace(splats, opacities=1 / (1 + np.exp(-splats.opacities)))
    (problem,) = check_logits(activated)
    assert "after the sigmoid" in problem


@pytest.mark.parametrize("opacity", [0.1, 0.5], ids=["logit-2.2", "logit-0"])
def test_an_initialisation_is_no_activated_model(opacity):
    start = np.full(400, np.log(opacity / (1 - opacity)), np.float32)
    assert check_logits(dataclasses.replace(make_splats(), opacities=start)) == []


@pytest.mark.parametrize("unit", [1.0, 20.0, 1000.0])
def test_an_initialisation_with_equal_scales_passes(unit):
    splats = make_splats(unit=unit)
    gaps = np.random.default_rng(1).normal(np.log(unit), 0.3, (400, 1)).astype(np.float32)
    assert check_logits(dataclasses.replace(splats, scales=np.repeat(gaps, 3, axis=1))) == []


def test_a_few_splats_prove_nothing():
    few = make_splats(count=8)
    odd = dataclasses.replace(few, opacities=np.abs(few.opacities) % 1, scales=np.exp(few.scales))
    assert check_logits(odd) == []


def test_rotations_of_length_zero_are_counted():
    splats = make_splats()
    splats.quats[3] = 0
    assert check_logits(splats)[0].startswith("1 rotations")


@pytest.mark.parametrize(("scale", "said"), [(255.0, "far outside"), (1.0, "holds rgb")])
def test_colours_in_place_of_coefficients_are_found(scale, said):
    draw = np.random.default_rng(0)
    rgb = draw.integers(0, 256, (400, 3))
    stored = (rgb / 255 * scale).astype(np.float32)[:, None, :]
    (problem,) = check_logits(dataclasses.replace(make_splats(), sh0=stored), rgb)
    assert said in problem


def test_a_pale_scene_passes():
    """Fog: all colours between 0.5 and 0.78 are legal where the photographs say so."""
    rgb = np.random.default_rng(0).integers(130, 195, (400, 3))
    stored = ((rgb / 255 - 0.5) / SH_C0).astype(np.float32)[:, None, :]
    assert check_logits(dataclasses.replace(make_splats(), sh0=stored), rgb) == []
