"""Layers are read one by one, each once, and merged as the kernel's overlay shows them."""

import contextlib
import gzip
import io
import tarfile

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from splatgate.container import distribution
from splatgate.container.layers import entries, images, packages, remote
from splatgate.container.layers.tree import TooManyLinks, Tree
from splatgate.container.reference import parse
from splatgate.evidence import BadInput, Package
from tests.unit import registries
from tests.unit.layered import (
    File,
    config,
    digest,
    docker_save,
    folder,
    hard,
    link,
    oci,
    rpm_database,
    tar,
)

KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"
LOWER = tar({"root/.ssh/id_ed25519": KEY, "opt/repo/.git": folder(), "usr/bin/x": b"ELF"})
UPPER = tar({"root/.ssh/.wh.id_ed25519": b"", "a.key": b"not a key"})


def read(data):
    return entries.read_layer(iter([data]))


def tree(*layers, **more):
    return Tree([read(tar(layer)) for layer in layers], **more)


def paths(found):
    return [path for path, _ in sorted(found.walk())]


def say(line):
    pass


# One layer


def test_a_removed_file_is_found_in_its_layer():
    lower, upper = read(LOWER).leftovers(), read(UPPER).leftovers()
    assert [(x.path, x.kind) for x in lower.leftovers] == [
        ("/root/.ssh/id_ed25519", "credentials"),
        ("/opt/repo/.git", "git"),
    ]
    assert upper.leftovers == ()
    assert (lower.files, upper.files) == (3, 2)
    assert lower.digest == digest(LOWER)


@pytest.mark.parametrize("name", ["../etc/passwd", "a/../../b", "/../x"])
def test_a_path_that_climbs_out_is_refused_by_name(name):
    with pytest.raises(BadInput, match="climbs out"):
        read(tar({name: b""}))


def test_a_hard_link_that_climbs_out_is_refused():
    with pytest.raises(BadInput, match="climbs out"):
        read(tar({"a": hard("../../etc/passwd")}))


def test_a_header_without_bounds_is_refused():
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with pytest.raises(BadInput, match="a header of"):
        read(header.tobuf() + bytes(2048))


def test_a_layer_cut_short_is_refused():
    with pytest.raises(BadInput, match="no whole archive"):
        read(tar({"a": b"x" * 5000})[:3000])


@given(st.binary(max_size=2000))
def test_no_bytes_break_the_reader(data):
    with contextlib.suppress(BadInput):
        read(data)


@given(st.binary(max_size=400), st.integers(0, 3000), st.integers(0, 255))
def test_no_damage_breaks_the_reader(content, at, value):
    data = bytearray(tar({"etc/passwd": content, "l": link("a"), "d": folder()}))
    data[at % len(data)] = value
    with contextlib.suppress(BadInput):
        Tree([read(bytes(data))])


# Layers merged


def test_a_whiteout_removes_what_is_below_and_nothing_of_its_own_layer():
    merged = tree({"a/x": b"1", "a/y": b"2"}, {"a/x": b"3", "a/.wh.x": b"", "a/.wh.y": b""})
    assert paths(merged) == ["/a", "/a/x"]
    assert merged.find("/a/x").layer == 1


def test_an_opaque_folder_hides_what_is_below():
    merged = tree({"a/x": b"", "a/b/y": b""}, {"a/new": b"", "a/.wh..wh..opq": b""})
    assert paths(merged) == ["/a", "/a/new"]


def test_a_device_of_overlay_is_a_whiteout():
    gone = File(kind=tarfile.CHRTYPE)
    assert paths(tree({"x": b"", "y": b""}, {"x": gone})) == ["/y"]


def test_devices_and_pipes_are_there():
    merged = tree(
        {"null": File(kind=tarfile.CHRTYPE, device=(1, 3)), "p": File(kind=tarfile.FIFOTYPE)}
    )
    assert paths(merged) == ["/null", "/p"]
    assert not merged.find("/null").is_file


def test_a_file_over_a_folder_takes_its_place_and_a_folder_over_a_folder_does_not():
    merged = tree({"a/x": b"", "b/y": b""}, {"a": b"file", "b": folder(0o700)})
    assert paths(merged) == ["/a", "/b", "/b/y"]
    assert merged.find("/b").entry.mode == 0o700


def test_a_folder_is_laid_over_a_link_of_a_lower_layer_and_not_of_its_own():
    below = {"real/x": b"", "l": link("real")}
    assert paths(tree(below, {"l/y": b""})) == ["/l", "/l/y", "/real", "/real/x"]
    within = [*below.items(), ("l/y", b"")]
    assert paths(tree(within)) == ["/l", "/real", "/real/x", "/real/y"]


def test_the_last_of_two_entries_counts():
    merged = tree([("etc/passwd", b"one"), ("etc/passwd", b"two")])
    assert merged.text("/etc/passwd") == "two"


def test_a_hard_link_is_the_file_also_of_a_lower_layer():
    merged = tree({"etc/passwd": File(b"root", 0o640)}, {"copy": hard("etc/passwd")})
    assert merged.find("/copy").entry.mode == 0o640
    assert merged.text("/copy") == "root"
    with pytest.raises(BadInput, match="hard link to /nowhere"):
        tree({"copy": hard("nowhere")})


def test_links_stay_inside_the_root():
    merged = tree(
        {
            "etc/passwd": b"root",
            "up": link("../../../etc/passwd"),
            "abs": link("/etc"),
            "loop": link("loop2"),
            "loop2": link("loop"),
        }
    )
    assert merged.where("/up") == "/etc/passwd"
    assert merged.text("/abs/passwd") == "root"
    assert merged.text("/abs/../etc/./passwd") == "root"
    assert merged.find("/loop") is None
    with pytest.raises(TooManyLinks):
        merged.resolve("/loop/x")
    assert merged.resolve("/abs/none/x") == ("/etc/none/x", None)


def test_names_of_any_bytes_are_kept():
    name = b"etc/caf\xe9".decode("utf-8", "surrogateescape")
    layer = read(tar({name: b"x"}))
    assert [e.path for e in layer.entries] == [b"etc/caf\xe9"]
    assert entries.shown(layer.entries[0].path) == "/etc/caf\\xe9"
    assert Tree([layer]).find(f"/{name}") is not None


def test_what_something_is_mounted_over_is_hidden():
    assert paths(tree({"opt/ml/code/train.py": b""}, hidden=["/opt/ml"])) == ["/opt", "/opt/ml"]


NAMES = st.sampled_from(["a", "b", "a/b", "a/c", "b/a", ".wh.a", "a/.wh.b", "a/.wh..wh..opq"])
FILES = st.sampled_from([File(b"x"), folder(), link("a"), link("../b"), link("/")])


@given(st.lists(st.dictionaries(NAMES, FILES, max_size=6), max_size=4))
def test_any_layers_merge_and_every_path_found_is_there(layers):
    try:
        merged = tree(*layers)
    except BadInput:
        return  # links in a circle, on the way to an entry
    for path, node in merged.walk():
        assert merged.find(path, last=False) is node


# Images


@pytest.mark.parametrize("packed", ["tar", "tar+gzip", "tar+zstd"])
def test_an_oci_layout_is_read(tmp_path, packed):
    where = oci(tmp_path / "layout", [LOWER, UPPER], packed, Entrypoint=["/x"], Env=["A=b=c"])
    opened = images.open_image(where)
    layers = images.read_layers(opened, tmp_path / "cache", say)
    seen = images.image_of(opened, layers)
    assert (seen.entrypoint, seen.env, seen.architecture) == (("/x",), {"A": "b=c"}, "amd64")
    assert seen.digests == (digest(LOWER), digest(UPPER))
    assert [layer.bytes for layer in seen.layers] == [len(KEY) + 3, 9]


def test_an_archive_of_docker_save_is_read_and_each_layer_once(tmp_path):
    archive = docker_save(tmp_path / "a.tar", [LOWER, UPPER])
    cache = tmp_path / "cache"
    first = images.read_layers(images.open_image(archive), cache, say)
    said = []
    assert images.read_layers(images.open_image(archive), cache, said.append) == first
    assert said == []


def test_an_archive_of_a_layout_is_read(tmp_path):
    where = oci(tmp_path / "layout", [LOWER])
    with tarfile.open(tmp_path / "l.tar", "w") as archive:
        archive.add(where, ".")
    assert images.open_image(tmp_path / "l.tar").digests == (digest(LOWER),)


def test_of_several_platforms_linux_amd64_is_taken_and_said(tmp_path):
    said = []
    where = oci(tmp_path / "l", [LOWER], platforms=("linux/arm64", "linux/amd64"))
    opened = images.open_image(where, said.append)
    assert opened.document["architecture"] == "amd64"
    assert "linux/arm64, linux/amd64; taking linux/amd64" in said[0]


def test_a_layer_that_is_another_is_refused(tmp_path):
    where = oci(tmp_path / "l", [LOWER, UPPER], "tar")
    blobs = where / "blobs" / "sha256"
    (blobs / digest(UPPER)[7:]).write_bytes(LOWER)
    with pytest.raises(BadInput, match=r"layer 2 is sha256:.*, its configuration says"):
        images.read_layers(images.open_image(where), tmp_path / "cache", say)
    (blobs / digest(UPPER)[7:]).unlink()
    with pytest.raises(BadInput, match="which its manifest names"):
        images.read_layers(images.open_image(where), tmp_path / "cache", say)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no archive", "no archive that can be read"),
        (tar({"x": b""}), "neither manifest.json nor index.json"),
        (tar({"manifest.json": b"{"}), "is no JSON"),
        (tar({"manifest.json": b"[]"}), "holds 0 images"),
        (tar({"manifest.json": b'[{"Config": "../c"}]'}), "no configuration"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(tmp_path, data, said):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(BadInput, match=said):
        images.open_image(tmp_path / "x")


@pytest.mark.parametrize("size", [7000, 512, 1 << 20])
def test_an_engines_export_is_read_as_one_stream_and_once(tmp_path, size):
    whole = docker_save(tmp_path / "a.tar", [LOWER, UPPER]).read_bytes()
    digests = (digest(LOWER), digest(UPPER))

    def export():
        stream = io.BytesIO(whole)
        return iter(lambda: stream.read(size), b"")

    def never():
        raise AssertionError("exported again")

    cache = tmp_path / "cache"
    first = images.read_export(export, digests, cache, say)
    assert [layer.digest for layer in first] == list(digests)
    assert images.read_export(never, digests, cache, say) == first
    with pytest.raises(BadInput, match="lacks layer sha256:0"):
        images.read_export(export, (*digests, "sha256:0"), cache, say)


def test_a_damaged_layer_of_the_cache_is_read_again(tmp_path):
    archive = docker_save(tmp_path / "a.tar", [LOWER])
    cache = tmp_path / "cache"
    first = images.read_layers(images.open_image(archive), cache, say)
    next(cache.iterdir()).write_bytes(b"\x81")
    assert images.read_layers(images.open_image(archive), cache, say) == first


# Packages


def test_installed_packages_of_three_distributions():
    dpkg = b"Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2-3\n\n"
    dpkg += b"Package: b\nStatus: deinstall ok config-files\nVersion: 1\n"
    assert packages.dpkg(dpkg) == (Package("a", "1:2-3", "amd64"),)
    assert packages.dpkg(b"Package: base\nVersion: 1\n") == (Package("base", "1"),)
    apk = b"C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\n\nP:zlib\nV:1.3-r1\n"
    assert [(p.name, p.version) for p in packages.apk(apk)] == [
        ("musl", "1.2.5-r0"),
        ("zlib", "1.3-r1"),
    ]
    rpm = rpm_database([("bash", "5.2", "1.el9", "x86_64"), ("gpg-pubkey", "1", "1", "")])
    assert packages.rpm(rpm) == (Package("bash", "5.2-1.el9", "x86_64", "rpm"),)


@pytest.mark.parametrize("data", [b"", b"SQLite format 3\0" + bytes(200), b"x" * 100])
def test_a_damaged_database_of_rpm_is_named(data):
    with pytest.raises(BadInput, match=r"rpmdb\.sqlite"):
        packages.rpm(data)


@given(st.binary(max_size=200))
def test_no_header_of_rpm_breaks_the_reader(data):
    with contextlib.suppress(packages.struct.error):
        packages.header(data)


# Registries


class Flaky:
    """A registry that breaks each answer off after some bytes; with or without ranges."""

    def __init__(self, data, after, ranges):
        self.data, self.after, self.ranges, self.asked = data, after, ranges, []

    def __call__(self, method, path, headers=None, data=None, *, stream=False):
        start = int((headers or {}).get("Range", "bytes=0-")[6:-1])
        self.asked.append(start)
        begin = start if self.ranges else 0
        length = self.after if self.ranges else self.after * len(self.asked)
        answer = requests.Response()
        answer.status_code = 206 if start and self.ranges else 200
        answer.raw = io.BytesIO(self.data[begin : begin + length])
        return answer


@pytest.mark.parametrize("ranges", [True, False])
def test_a_blob_that_breaks_off_is_taken_up_again(monkeypatch, ranges):
    there = distribution.Distribution(parse("localhost:1/a"))
    flaky = Flaky(LOWER, 5000, ranges)
    monkeypatch.setattr(there, "_send", flaky)
    assert b"".join(there.stream(digest(LOWER), len(LOWER))) == LOWER
    assert flaky.asked == [0, 5000, 10000]
    assert read(LOWER).digest == entries.read_layer(there.stream(digest(LOWER), len(LOWER))).digest


@pytest.mark.parametrize(
    ("name", "size", "after", "said"),
    [
        (digest(UPPER), len(LOWER), 1 << 20, "is another"),
        (digest(LOWER), 100, 1 << 20, "is longer than"),
        (digest(LOWER), len(LOWER), 10, "breaks off at byte 60"),
    ],
    ids=["another", "longer", "broken"],
)
def test_a_blob_that_is_not_what_was_asked_for_is_refused(monkeypatch, name, size, after, said):
    there = distribution.Distribution(parse("localhost:1/a"))
    monkeypatch.setattr(there, "_send", Flaky(LOWER, after, ranges=True))
    with pytest.raises(BadInput, match=said):
        b"".join(there.stream(name, size))


@pytest.mark.skipif(not registries.INSTALLED, reason="no docker-registry")
def test_an_image_in_a_registry_is_read_without_an_engine(tmp_path):
    with registries.running(tmp_path) as host:
        repository = registries.Repository(host, "team/trainer")
        prefix = "application/vnd.oci.image"
        layers = [repository.blob(gzip.compress(layer)) for layer in (LOWER, UPPER)]
        document = {
            "schemaVersion": 2,
            "mediaType": distribution.OCI,
            "config": {
                "mediaType": f"{prefix}.config.v1+json",
                **repository.blob(config([LOWER, UPPER], User="7")),
            },
            "layers": [{"mediaType": f"{prefix}.layer.v1.tar+gzip", **x} for x in layers],
        }
        made = repository.manifest(document, "v1")
        opened = remote.open_remote(f"{host}/team/trainer:v1")
        found = images.read_layers(opened, tmp_path / "cache", say)
        seen = images.image_of(opened, found)
        with pytest.raises(BadInput, match="has none of that name"):
            remote.open_remote(f"{host}/team/trainer:v2")
    assert (seen.user, seen.manifest_digest) == ("7", made["digest"])
    assert Tree(found).find("/root/.ssh/id_ed25519") is None
