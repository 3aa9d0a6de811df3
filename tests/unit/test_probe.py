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
from splatgate.container.probe import code, elf, main, walk
from splatgate.evidence import Facts, Image, from_json


def fatbin(entries):
    """A .nv_fatbin section: one fat binary with (kind, architecture, payload bytes) entries."""
    body = b""
    for kind, arch, size in entries:
        size = (size + 7) // 8 * 8
        head = struct.pack("<HHIQ", kind, 0x101, 64, size) + bytes(12) + struct.pack("<I", arch)
        body += head.ljust(64, b"\0") + bytes(size)
    return struct.pack("<IHHQ", elf.FATBIN_MAGIC, 1, 16, len(body)) + body


def shared_object(section, machine=0x3E):
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
            st.sampled_from([elf.PTX, elf.CUBIN]),
            st.sampled_from([70, 75, 80, 86, 89, 90]),
            st.integers(0, 200),
        ),
        max_size=8,
    )
)
def test_architectures_are_read_from_the_headers(entries):
    data = shared_object(fatbin(entries[:4]) + fatbin(entries[4:]))
    machine, section = elf.elf_section(data, b".nv_fatbin")
    cubins, ptx = elf.fatbin_architectures(data, *section)
    assert machine == "x86_64"
    assert cubins == sorted({a for k, a, _ in entries if k == elf.CUBIN})
    assert ptx == sorted({a for k, a, _ in entries if k == elf.PTX})


def test_an_arm_library_is_told_by_its_machine():
    assert elf.elf_section(shared_object(b"", machine=0xB7), b".nv_fatbin")[0] == "aarch64"


@given(st.binary(max_size=300))
def test_no_bytes_hang_or_break_the_reader(data):
    elf.elf_section(data.ljust(64, b"\0"), b".nv_fatbin")
    elf.fatbin_architectures(data, 0, len(data))


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader_of_links(data):
    elf.needed(b"\x7fELF\x02".ljust(64, b"\1") + data)


def test_links_are_read_from_a_real_library():
    import _ctypes

    path = getattr(_ctypes, "__file__", None)
    if path is None:
        pytest.skip("this interpreter has its extensions inside")
    assert any(name.startswith("libc.") for name in elf.needed(Path(path).read_bytes()))


def test_late_and_tried_imports_are_told_apart():
    tree = ast.parse(
        "import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\n"
        "try:\n    import h\nexcept ImportError:\n    import i\n"
        "if TYPE_CHECKING:\n    import j\ndef x():\n    import late\n"
    )
    needed, tried = code.imported(tree, "pkg.sub")
    assert needed == {
        "a.b": set(),
        "c": {"d"},
        "pkg.sub": {"e"},
        "pkg.sub.f": {"g"},
        "i": set(),
        "late": set(),
    }
    assert tried == {"h": set()}


def test_the_closure_follows_the_trainers_own_modules(tmp_path):
    (tmp_path / "pkg").mkdir()
    files = {
        "train.py": "try:\n    from pkg.main import go\nexcept Exception:\n    raise\n",
        "pkg/__init__.py": "",
        "pkg/main.py": "from .helpers import x\ndef go():\n    import numpy\n",
        "pkg/helpers.py": "import argparse\nx = 1\nopen('configs/base.yaml')\n",
        "other.py": "import never_installed\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found, modules, tried, settings = code.sources(str(tmp_path / "train.py"))
    assert len(found) == 5
    assert {"pkg.main", "pkg.helpers", "numpy", "argparse"} <= set(modules)
    assert modules["pkg.main"] == ["go"]
    assert "never_installed" not in modules
    assert not tried
    assert settings == {"configs/base.yaml": False}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def f():\n    return nowhere\n", ["nowhere"]),
        ("import os\nclass A:\n    x = os\n    def f(self):\n        return __class__, x\n", ["x"]),
        ("def f():\n    global late\n    late = 1\ndef g():\n    return late\n", []),
        ("from os import *\npath\nnowhere\n", []),
        ("try:\n    import a\nexcept ImportError as e:\n    a = None\nprint(a, __file__)\n", []),
        ("x: int\n[y for y in range(3)]\nlambda z: z\n", []),
        ("def f(a: 'Missing', *b, c=1, **d) -> 'Missing':\n    return a, b, c, d\n", []),
        ("if x := 1:\n    del x\n", []),
    ],
    ids=["free", "class", "global", "star", "except", "scopes", "annotation", "walrus"],
)
def test_names_that_nothing_binds(text, names):
    assert code.undefined(text.encode(), "x.py") == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("open('a/b.yaml')", {"a/b.yaml"}),
        ("open('out.json', 'w')", set()),
        ("open('out.json', mode='w')", set()),
        ("p.add_argument('--config', default='/etc/x.toml')", {"/etc/x.toml"}),
        ("open('/opt/ml/input/config/hyperparameters.json')", set()),
        ("print('a.yaml')", set()),
    ],
    ids=["open", "write", "mode", "default", "mount", "word"],
)
def test_settings_opened_by_default(text, names):
    assert code.opened(ast.parse(text)) == names


def test_the_script_behind_an_entry_point_is_found(tmp_path):
    (tmp_path / "train.py").write_text("")
    (tmp_path / "start.sh").write_text(f'#!/bin/sh\nexec python3 {tmp_path}/train.py "$@"\n')
    (tmp_path / "module.sh").write_text("#!/bin/sh\nexec python3 -u -m json.tool\n")
    (tmp_path / "console").write_text("#!/usr/bin/env python3\n")
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    here = str(tmp_path)
    assert code.locate(["python", "train.py"], here) == f"{here}/train.py"
    assert code.locate([f"{here}/start.sh"], "/") == f"{here}/train.py"
    assert code.locate([f"{here}/module.sh"], "/").endswith("json/tool.py")
    assert code.locate([f"{here}/console"], "/") == f"{here}/console"
    assert code.locate(["python", "-m", "json.tool"], "/").endswith("json/tool.py")
    assert code.locate([sys.executable], "/") is None
    assert code.locate([], "/") is None


def test_the_probe_answers_in_the_shape_of_facts(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import json, no_such_module\nfrom json import no_such_name\n")
    (tmp_path / "broken.py").write_text("  x = 1\n")
    ask = {"entrypoint": ["python", str(script)], "workdir": "/", "paths": ["/tmp"]}
    done = subprocess.run(
        [sys.executable, "-", json.dumps(ask)], input=probe.text(), capture_output=True, check=True
    )
    facts = from_json(done.stdout, Facts, "probe")
    assert facts.entry_script == str(script)
    assert facts.writable == {"/tmp": True}
    said = {i.module: i.error for i in facts.imports}
    assert said["no_such_module"].startswith("ModuleNotFoundError")
    assert said["json"] == "ImportError: cannot import name 'no_such_name' from 'json'"
    errors = {Path(s.path).name: s.error for s in facts.sources}
    assert errors["train.py"] is None
    assert errors["broken.py"].startswith("IndentationError")
    assert facts.unresolved is not None
    assert facts.other_machines == {}


def test_any_python_from_3_8_on_reads_the_probe():
    ast.parse(probe.text(), feature_version=(3, 8))


def test_a_folder_twice_on_the_path_is_one_install(tmp_path, monkeypatch):
    for folder, versions in {"one": ["1.0"], "two": ["1.0", "2.0"]}.items():
        for version in versions:
            info = tmp_path / folder / f"thing-{version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: thing\nVersion: {version}\n"
            )
    (tmp_path / "link").symlink_to(tmp_path / "one")
    monkeypatch.setattr(sys, "path", [str(tmp_path / n) for n in ("one", "one", "link", "two")])
    found = [(d["version"], Path(d["folder"]).name) for d in main.distributions()]
    assert found == [("1.0", "one"), ("1.0", "two"), ("2.0", "two")]


def test_a_crash_of_one_import_leaves_the_rest(tmp_path):
    (tmp_path / "bad.py").write_text("import os\nos.abort()\n")
    modules, path = {"bad": [], "json": ["loads"]}, [str(tmp_path)]
    seen = main.attempts(main.begin(modules, path), modules, path, [])
    assert set(seen["failed"]) == {"bad"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/usr/lib/x86_64-linux-gnu/libcuda.so.550.54", "driver"),
        ("/usr/local/cuda/lib64/stubs/libcuda.so", None),
        ("/usr/local/cuda/compat/libcuda.so.1", "compat"),
        ("/usr/local/cuda/lib64/libcudart.so.12.4.127", "cudart"),
        ("/usr/local/cuda/bin/nvcc", "toolkit"),
        ("/usr/lib/libnvidia-ml.so.1", "driver"),
        ("/usr/lib/libcudadevrt.a", None),
    ],
)
def test_files_of_cuda_are_told_apart(path, kind):
    assert walk.kind_of(path, path.rpartition("/")[2], 0o100644) == kind


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
