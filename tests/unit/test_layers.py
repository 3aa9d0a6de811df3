"""Layers of an exported image are read one by one, and each once."""

import hashlib
import io
import tarfile

import pytest

from splatgate.container import layers

KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"


def tar(files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            entry.size = len(content or b"")
            archive.addfile(entry, io.BytesIO(content or b""))
    return data.getvalue()


LOWER = tar({"root/.ssh/id_ed25519": KEY, "opt/repo/.git": None, "usr/bin/x": b"ELF"})
UPPER = tar({"root/.ssh/.wh.id_ed25519": b"", "a.key": b"not a key"})


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def export(form):
    names = [f"{n}/layer.tar" for n in "ab"] if form == "docker" else ["blobs/sha256/a", "b"]
    whole = tar(dict(zip(names, (LOWER, UPPER), strict=True)) | {"manifest.json": b"[{}]"})
    return iter([whole[i : i + 7000] for i in range(0, len(whole), 7000)])


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_a_removed_file_is_found_in_its_layer(tmp_path, form):
    digests = (digest(LOWER), digest(UPPER))
    lower, upper = layers.scan(lambda: export(form), digests, tmp_path, lambda line: None)
    assert [(x.path, x.kind) for x in lower.leftovers] == [
        ("/root/.ssh/id_ed25519", "credentials"),
        ("/opt/repo/.git", "git"),
    ]
    assert upper.leftovers == ()
    assert (lower.files, upper.files) == (3, 2)


def test_a_layer_seen_before_is_not_exported_again(tmp_path):
    digests = (digest(LOWER), digest(UPPER))
    first = layers.scan(lambda: export("docker"), digests, tmp_path, lambda line: None)

    def never():
        raise AssertionError("exported again")

    assert layers.scan(never, digests, tmp_path, lambda line: None) == first
