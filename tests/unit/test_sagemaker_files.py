"""Files on their way into a job and out of it: channels, archives, changes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate.evidence import BadInput, Member
from splatgate.sagemaker.channels import (
    files_below,
    manifest_paths,
    relative_paths,
    tar_of,
    tree_hash,
)
from splatgate.sagemaker.collect import Files, _each, _Router, outside


def unpack(chunks: Any) -> dict[str, tarfile.TarInfo]:
    """Members of a tar stream by name."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        return {member.name: member for member in tar.getmembers()}


def test_tar_is_root_owned_and_makes_each_folder_once(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.jpg").write_bytes(b"x" * 700)
    (tmp_path / ("long" * 50)).write_text("")
    found = unpack(tar_of(["ml/model", "ml/x"], {"ml/k.json": b"{}"}, {"data/t": tmp_path}))
    paths = "ml ml/model ml/x ml/k.json data data/t data/t/a data/t/a/b data/t/a/b/c.jpg {}"
    assert sorted(found) == sorted(paths.format("data/t/" + "long" * 50).split())
    assert {(m.uid, m.gid) for m in found.values()} == {(0, 0)}
    assert {m.mode for m in found.values() if m.isdir()} == {0o755}
    assert {m.mode for m in found.values() if m.isreg()} == {0o644}


def test_links_in_a_channel_are_followed_as_an_upload_would(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_text("a")
    (tmp_path / "channel").mkdir()
    (tmp_path / "channel/folder").symlink_to(tmp_path / "real")
    (tmp_path / "channel/file").symlink_to(tmp_path / "real/a")
    assert [name for name, _ in files_below(tmp_path / "channel")] == ["file", "folder/a"]
    members = unpack(tar_of([], {}, {"": tmp_path / "channel"}))
    assert members["file"].isreg()


@pytest.mark.parametrize("kind", ["dangling", "loop", "fifo", "missing"])
def test_channel_that_s3_cannot_hold_is_bad_input(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "channel"
    if kind != "missing":
        root.mkdir()
    if kind == "dangling":
        (root / "x").symlink_to("nowhere")
    elif kind == "loop":
        (root / "x").symlink_to(root)
    elif kind == "fifo":
        os.mkfifo(root / "x")
    with pytest.raises(BadInput):
        tree_hash(root)


def test_tree_hash_sees_names_content_and_hidden_files(tmp_path: Path) -> None:
    def make(**files: str) -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            path = root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tree_hash(root)

    base = make(a="1", b__c="2")
    assert make(b__c="2", a="1") == base
    assert len({base, make(a="1", b__d="2"), make(a="1", b__c="3"), make(a="1", bc="2")}) == 4
    (tmp_path / "0" / ".hidden").write_text("")
    assert tree_hash(tmp_path / "0") != base


@pytest.mark.parametrize(
    ("prefix", "landed"),
    [
        ("s/scene1/", {"s/scene1/a": "a", "s/scene1/b/c": "b/c"}),
        ("s/scene1", {"s/scene1/a": "a", "s/scene1/b/c": "b/c", "s/scene10/a": "0/a"}),
        ("s/scene1/a", {"s/scene1/a": "a"}),
        ("none/", {}),
    ],
    ids=["slash", "no-slash-takes-a-sibling", "one-object", "nothing"],
)
def test_prefix_is_text_not_a_folder(prefix: str, landed: dict[str, str]) -> None:
    keys = ["s/scene1/", "s/scene1/a", "s/scene1/b/c", "s/scene10/a"]
    assert relative_paths(keys, prefix) == landed


def test_manifest_names_objects_by_suffix() -> None:
    text = '[{"prefix": "s3://b/p/"}, "a.jpg", "sub/c.jpg"]'
    assert manifest_paths(text) == {"s3://b/p/a.jpg": "a.jpg", "s3://b/p/sub/c.jpg": "sub/c.jpg"}


@given(st.text() | st.sampled_from(["[]", "[1]", '[{"prefix": "s3://b/"}, "../x"]', "[" * 9000]))
def test_any_text_is_a_manifest_or_bad_input(text: str) -> None:
    with pytest.raises(BadInput):
        manifest_paths(text)


# What is read back


class FakeCarrier:
    """Hands out one archive, as the engine does, in small chunks."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def get_archive(self, path: str, chunk_size: int) -> tuple[Any, dict[str, Any]]:
        return (self.data[i : i + 1000] for i in range(0, len(self.data), 1000)), {}


def archive(*entries: tuple[str, bytes | None, dict[str, Any]]) -> bytes:
    """A tar of entries: name, content of a regular file or None, and other fields of the header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data, fields in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data or b"")
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


def route(folder: Path, data: bytes, keep: frozenset[str] = frozenset()) -> Files:
    """Read an archive of /opt/ml."""
    files = Files()
    config = {"input/config/hyperparameters.json": b"{}"}
    router = _Router(files, "ml/checkpoints", config, folder, keep, None)
    _each(FakeCarrier(data), "ml", float("inf"), router.take)
    return files


def test_entries_go_where_the_contract_says(tmp_path: Path) -> None:
    files = route(
        tmp_path,
        archive(
            ("ml/", None, {"type": tarfile.DIRTYPE}),
            ("ml/input/config/hyperparameters.json", b"{}", {}),
            ("ml/model/a/b.ply", b"ply", {"mode": 0o600}),
            ("ml/output/failure", b"why\xff", {}),
            ("ml/output/data/n", b"n", {}),
            ("ml/output/success", b"", {}),
            ("ml/output/other", b"", {}),
            ("ml/checkpoints/c", b"c", {}),
            ("ml/code/x.py", b"", {}),
        ),
    )
    digest = hashlib.sha256(b"ply").hexdigest()
    assert files.model == [Member("a/b.ply", 3, digest, "file", 0o600)]
    assert (tmp_path / "model/a/b.ply").read_bytes() == b"ply"
    assert [m.path for m in files.output] == ["n"]
    assert [m.path for m in files.checkpoints] == ["c"]
    assert files.failure == "why\ufffd"
    assert files.strays == ["/opt/ml/output/other", "/opt/ml/code/x.py"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_changed_configuration_is_a_stray(tmp_path: Path) -> None:
    data = archive(("ml/input/config/hyperparameters.json", b'{"a":"1"}', {}))
    assert route(tmp_path, data).strays == ["/opt/ml/input/config/hyperparameters.json"]


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    route(
        folder,
        archive(
            ("ml/model/../../../evil", b"x", {}),
            ("ml/model/link", None, {"type": tarfile.SYMTYPE, "linkname": str(tmp_path)}),
            ("ml/model/link/through", b"x", {}),
            ("ml/model/hard", None, {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}),
            ("ml/model", None, {"type": tarfile.SYMTYPE, "linkname": "/etc"}),
            ("ml/model/device", None, {"type": tarfile.CHRTYPE}),
        ),
        frozenset({"output", "checkpoints"}),
    )
    assert [p.name for p in tmp_path.iterdir()] == ["job"]
    assert not [p for p in folder.rglob("*") if p.is_symlink() or p.name in ("hard", "device")]


@given(st.binary(max_size=2000))
def test_broken_archive_raises_and_writes_nothing_elsewhere(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        with contextlib.suppress(tarfile.TarError):
            route(Path(name) / "job", data)
        assert {p.name for p in Path(name).iterdir()} <= {"job"}


def test_changes_outside_without_mere_parents() -> None:
    changes = ["/opt", "/opt/ml", "/var", "/var/lib", "/var/lib/x", "/tmp", "/mnt/ck", "/new"]
    mounts = ["/opt/ml", "/opt/ml/input/data/training", "/mnt/ck"]
    assert outside(changes, mounts) == ["/new", "/tmp", "/var/lib/x"]
    driver = ["/usr/bin/nvidia-smi", "/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib/mine.so"]
    assert outside(driver, [], gpu=True) == ["/usr/lib/mine.so"]
    assert outside(driver, []) == sorted(driver)
