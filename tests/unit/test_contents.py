"""What an image holds is read from its layers, and an image cannot vouch for itself."""

import dataclasses
import json
from pathlib import Path

import pytest

from splatgate.container.agreement import contradictions
from splatgate.container.layers import entries
from splatgate.container.layers.contents import contents
from splatgate.container.layers.tree import Tree
from splatgate.evidence import Facts, Image, from_json
from tests.unit.layered import ELF, SITE, File, debian, folder, link, program, tar, wheel
from tests.unit.test_probe import fatbin, shared_object

TORCH = "__version__ = '2.6.0+cu126'\ncuda: Optional[str] = '12.6'\n"
ENTRY = ("/opt/venv/bin/python", "/opt/trainer/train.py")
PATH = "/opt/venv/bin:/usr/bin:/bin"


def an_image(**more):
    given = {"entrypoint": ENTRY, "env": {"PATH": PATH}, "labels": {}} | more
    return Image("r", "sha256:0", None, "linux", "amd64", given.pop("entrypoint"), (),
                 given.pop("env"), "", "/", given.pop("labels"), 1, **given)  # fmt: skip


def tree(*layers):
    return Tree([entries.read_layer(iter([tar(layer)])) for layer in layers])


def trainer():
    """A trainer with compiled code for one GPU."""
    code = shared_object(fatbin([(2, 75, 8)]))
    return (
        {
            "opt/trainer/train.py": File("import os\nprint(os)\n", 0o755),
            "opt/trainer/config.yaml": "a: 1\n",
            "opt/trainer/subject.toml": "x = 1\n",
            f"{SITE}/gsplat/csrc.so": code,
            f"{SITE}/torch/version.py": TORCH,
        }
        | wheel("gsplat", "1.5.3", "torch")
        | wheel("torch", "2.6.0+cu126")
        | wheel("numpy", "2.3.0")
    )


def hold(*layers, **more):
    return contents(tree(debian(), trainer(), *layers), an_image(**more))


def test_python_and_what_it_finds():
    seen = hold(labels={"io.splatgate.subject": "/opt/trainer/subject.toml"})
    assert (seen.python, seen.version, seen.machine) == (ENTRY[0], "3.11.2", "x86_64")
    assert [(d.name, d.version, d.requires, d.folder) for d in seen.distributions] == [
        ("gsplat", "1.5.3", ("torch",), f"/{SITE}"),
        ("numpy", "2.3.0", (), f"/{SITE}"),
        ("torch", "2.6.0+cu126", (), f"/{SITE}"),
    ]
    assert (seen.torch_version, seen.torch_cuda) == ("2.6.0+cu126", "12.6")
    assert seen.gsplat_extension == f"/{SITE}/gsplat/csrc.so"
    assert [(lib.path, lib.cubins) for lib in seen.libraries] == [(seen.gsplat_extension, (75,))]
    assert [(s.path, s.error, s.mode) for s in seen.sources] == [(ENTRY[1], None, 0o755)]
    assert (seen.entry_script, seen.entry_script_mode) == (ENTRY[1], 0o755)
    assert seen.settings_shipped == ("/opt/trainer/config.yaml",)
    assert seen.subject == "x = 1\n"
    assert [(p.name, p.version) for p in seen.packages] == [
        ("libc6", "2.36-9"),
        ("python3.11-minimal", "3.11.2-6"),
    ]
    assert (seen.compilers, seen.unresolved, seen.other_machines) == ((), (), {})
    assert seen.files.setuid == ("/usr/bin/passwd",)
    assert seen.files.world_writable == ()


def test_what_should_not_be_there_is_seen():
    seen = hold(
        {
            "usr/bin/gcc": File(ELF, 0o4777),
            "opt/trainer": folder(0o777),
            "root/.env": "KEY=1",
            "opt/ml/code": folder(0o777),
            "opt/trainer/broken.py": "def :\n",
            "opt/trainer/other.py": "print(missing)\n",
            f"{SITE}/arm.so": shared_object(b"", machine=0xB7),
        }
    )
    assert seen.compilers == ("gcc",)
    assert seen.files.setuid == ("/usr/bin/gcc", "/usr/bin/passwd")
    assert seen.files.world_writable == ("/opt/trainer", "/usr/bin/gcc")
    assert [(x.path, x.kind) for x in seen.files.leftovers] == [("/root/.env", "credentials")]
    errors = {s.path.rpartition("/")[2]: (s.error or "", s.undefined) for s in seen.sources}
    assert errors["broken.py"][0].startswith("SyntaxError")
    assert errors["other.py"] == ("", ("missing",))
    assert seen.other_machines == {f"/{SITE}/arm.so": "aarch64"}


def test_a_pth_is_followed_and_its_code_is_told():
    seen = hold(
        {
            f"{SITE}/editable.pth": "/srv/mine\n# a comment\nimport evil; evil.go()\n",
            "srv/mine/mine-1.dist-info/METADATA": "Name: mine\nVersion: 1\n\n",
            f"{SITE}/sitecustomize.py": "",
        }
    )
    assert ("mine", "/srv/mine") in [(d.name, d.folder) for d in seen.distributions]
    assert seen.startup == (
        f"/{SITE}/editable.pth: import evil; evil.go()",
        f"/{SITE}/sitecustomize.py",
    )


@pytest.mark.parametrize(
    ("entrypoint", "extra", "script"),
    [
        (("/usr/local/bin/start",), {"usr/local/bin/start": program("#!/bin/sh\nexec python "
         "/opt/trainer/train.py")}, "/opt/trainer/train.py"),
        (("train",), {"usr/bin/train": program("#!/opt/venv/bin/python\n")}, "/usr/bin/train"),
        (("python", "-m", "job"), {"job/__main__.py": ""}, "/job/__main__.py"),
        (("/usr/bin/trainer",), {"usr/bin/trainer": program()}, None),
    ],
    ids=["shell", "shebang", "module", "binary"],
)  # fmt: skip
def test_the_script_that_an_entry_point_runs(entrypoint, extra, script):
    extra["usr/bin/python3"] = link("python3.11")
    assert hold(extra, entrypoint=entrypoint).entry_script == script


def test_an_image_without_python_has_files_and_no_python():
    seen = contents(tree({"bin/trainer": program()}), an_image(entrypoint=("/bin/trainer",)))
    assert (seen.python, seen.distributions, seen.files.files) == ("", (), 2)


def facts(of):
    """What a probe that tells the truth would say of an image."""
    told = {f.name: getattr(of, f.name) for f in dataclasses.fields(of)}
    return Facts(**told, uid=0, environment={"PATH": PATH}, imports=(), writable={})


def test_a_truthful_image_agrees_with_its_layers():
    seen = hold()
    assert contradictions(facts(seen), seen) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({f"{SITE}/numpy-2.3.0.dist-info/METADATA": "Name: numpy\nVersion: 1.26.4\n\n"},
         f"says numpy in /{SITE} 2.3.0, its layers say 1.26.4"),
        ({f"{SITE}/.wh.numpy-2.3.0.dist-info": ""},
         f"says numpy in /{SITE} 2.3.0, its layers say none"),
        ({f"{SITE}/gsplat/.wh.csrc.so": ""}, "csrc.so, its layers say none"),
        ({f"{SITE}/gsplat/csrc.so": shared_object(fatbin([(2, 90, 8)]))},
         "machine code [75], PTX [], its layers say x86_64, machine code [90], PTX []"),
        ({"usr/bin/gcc": File(ELF, 0o4755)}, "setuid or setgid: none, its layers say /usr/bin/gcc"),
        ({"usr/bin/gcc": File(ELF, 0o755)}, "on PATH: none, its layers say gcc"),
        ({"opt/trainer": folder(0o777)}, "everyone: none, its layers say /opt/trainer"),
        ({"opt/trainer/train.py": File("", 0o644)}, "train.py 755, its layers say 644"),
        ({f"{SITE}/torch/version.py": "__version__ = '2.6.0'\ncuda = None\n"}, "torch"),
    ],
)  # fmt: skip
def test_a_contradiction_is_told_with_both_answers(change, said):
    told = contradictions(facts(hold()), hold(change))
    assert any(said in line for line in told), told
    assert all(line.startswith("the image's own Python says ") for line in told)


def test_a_recorded_probe_is_read_as_what_an_image_says():
    path = Path(__file__).parents[1] / "evidence" / "good" / "container" / "facts.json"
    seen = from_json(path.read_bytes(), Facts, "facts")
    assert seen.startup is None
    assert json.loads(path.read_bytes())["python"] == seen.python
