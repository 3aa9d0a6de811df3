"""The probe reads ELF files and fat binaries by their headers, and imports as a program would."""

import ast
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate.container import probe, running
from splatgate.evidence import Facts, Image, from_json


def fatbin(entries):
    """A .nv_fatbin section: one fat binary with (kind, architecture, payload bytes) entries."""
    body = b""
    for kind, arch, size in entries:
        size = (size + 7) // 8 * 8
        head = struct.pack("<HHIQ", kind, 0x101, 64, size) + bytes(12) + struct.pack("<I", arch)
        body += head.ljust(64, b"\0") + bytes(size)
    return struct.pack("<IHHQ", probe.FATBIN_MAGIC, 1, 16, len(body)) + body


def elf(section, machine=0x3E):
    """A minimal ELF64 file with the sections .shstrtab and .nv_fatbin."""
    names = b"\0.shstrtab\0.nv_fatbin\0".ljust(24, b"\0")  # sections of GPU code are aligned to 8
    offset = 64
    table = offset + len(names) + len(section)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 1)

    def entry(name, at, size):
        return struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, size, 0, 0, 0, 0)

    sections = (
        entry(0, 0, 0) + entry(1, offset, len(names)) + entry(11, offset + len(names), len(section))
    )
    return header + names + section + sections


@given(
    st.lists(
        st.tuples(
            st.sampled_from([probe.PTX, probe.CUBIN]),
            st.sampled_from([70, 75, 80, 86, 89, 90]),
            st.integers(0, 200),
        ),
        max_size=8,
    )
)
def test_architectures_are_read_from_the_headers(entries):
    data = elf(fatbin(entries[:4]) + fatbin(entries[4:]))
    machine, section = probe.elf_section(data, b".nv_fatbin")
    cubins, ptx = probe.fatbin_architectures(data, *section)
    assert machine == "x86_64"
    assert cubins == sorted({a for k, a, _ in entries if k == probe.CUBIN})
    assert ptx == sorted({a for k, a, _ in entries if k == probe.PTX})


def test_an_arm_library_is_told_by_its_machine():
    assert probe.elf_section(elf(b"", machine=0xB7), b".nv_fatbin")[0] == "aarch64"


@given(st.binary(max_size=300))
def test_no_bytes_hang_or_break_the_reader(data):
    probe.elf_section(data.ljust(64, b"\0"), b".nv_fatbin")
    probe.fatbin_architectures(data, 0, len(data))


def test_optional_imports_are_not_required():
    tree = ast.parse(
        "import a.b\nfrom c import d\nfrom . import e\n"
        "try:\n    import f\nexcept ImportError:\n    import g\n"
        "if TYPE_CHECKING:\n    import h\ndef x():\n    import late\n"
    )
    assert probe.imported(tree) == {"a.b", "c", "g", "late"}


def test_the_probe_answers_in_the_shape_of_facts(tmp_path):
    (tmp_path / "train.py").write_text("import json, no_such_module\n")
    (tmp_path / "broken.py").write_text("  x = 1\n")
    ask = {"entry_script": str(tmp_path / "train.py"), "source": str(tmp_path), "paths": ["/tmp"]}
    done = subprocess.run(
        [sys.executable, "-", json.dumps(ask)],
        input=Path(probe.__file__).read_bytes(),
        capture_output=True,
        check=True,
    )
    facts = from_json(done.stdout, Facts, "probe")
    assert facts.writable == {"/tmp": True}
    assert {i.module: bool(i.error) for i in facts.imports} == {
        "json": False,
        "no_such_module": True,
    }
    errors = {Path(s.path).name: s.error for s in facts.sources}
    assert errors["train.py"] is None
    assert errors["broken.py"].startswith("IndentationError")


def an_image(entrypoint, workdir="/"):
    return Image("r", "sha256:0", None, "linux", "amd64", entrypoint, (), {}, "", workdir, {}, 1)


@pytest.mark.parametrize(
    ("entrypoint", "script"),
    [
        (("/opt/venv/bin/python", "/opt/trainer/train.py"), "/opt/trainer/train.py"),
        (("python3", "-u", "train.py"), "/app/train.py"),
        (("/usr/bin/train",), "/usr/bin/train"),
        ((), None),
    ],
    ids=["absolute", "relative", "program", "none"],
)
def test_entry_script_is_found_in_the_entry_point(entrypoint, script):
    assert running.entry_script(an_image(entrypoint, "/app")) == script
