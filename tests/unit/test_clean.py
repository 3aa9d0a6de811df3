"""The verb `clean` names what is ours, leaves what is not, and removes only when told."""

from types import SimpleNamespace

import pytest

from splatgate import clean
from splatgate.container import starting, sweep


class Item(SimpleNamespace):
    def remove(self, **options):
        self.engine.removed.append(self.name)


class Engine:
    """The docker SDK's client, as far as `clean` asks it."""

    def __init__(self, images=(), cache=(), containers=()):
        self.removed = []
        for one in containers:
            one.engine = self
        self.containers = SimpleNamespace(list=lambda **_: list(containers))
        self.volumes = self.networks = SimpleNamespace(list=lambda **_: [])
        self.images = SimpleNamespace(list=lambda: list(images), remove=self.removed.append)
        self.api = SimpleNamespace(
            prune_builds=lambda filters, all: self.removed.extend(filters["id"])
        )
        self.df = lambda: {"BuildCache": list(cache)}


def image(*tags):
    return SimpleNamespace(tags=list(tags), attrs={"Size": 8_000_000_000})


def step(name, description, shared=False):
    return {"ID": name, "Description": description, "Size": 10**9, "Shared": shared}


def container(name, controller):
    labels = {sweep.CONTROLLER_LABEL: controller}
    return Item(name=name, attrs={"Labels": labels}, status="exited")


def test_only_what_is_ours_goes():
    host = sweep.controller().split(":")[0]
    held = Engine(
        images=[image("splatgate/3dgs-trainer:dev", "team/trainer:1"), image("postgres:16")],
        cache=[
            step("a", "mount / from exec /bin/sh -c PIP_CACHE_DIR=/mnt/pip /opt/tools/bin/pip"),
            step("b", "mount / from exec /bin/sh -c npm ci"),
        ],
        containers=[
            container("dead", f"{host}:999999999:1"),
            container("runs", sweep.controller()),
        ],
    )
    things = list(clean.in_engine(held))
    for thing in things:
        if thing.remove:
            thing.remove()
    assert held.removed == ["dead", "splatgate/3dgs-trainer:dev", "a"]
    assert {t.name: t.note for t in things if t.note} == {
        "runs": "of a run under way",
        "splatgate/3dgs-trainer:dev": "stays under its other names",
        "of other builds": "docker builder prune",
    }


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(clean, "ROOT", tmp_path)
    monkeypatch.setattr(starting, "FOLDER", tmp_path / "build" / "engine")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    for name in ("build/signoffs/sha256-1", "build/engine", "build/evidence", ".tox/suite"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    return tmp_path


def test_nothing_goes_without_a_yes_and_signoffs_never(checkout, capsys):
    before = sorted(checkout.rglob("*"))
    assert clean.main([]) == 0
    assert sorted(checkout.rglob("*")) == before
    said = capsys.readouterr().out
    assert said.startswith("no engine: ")
    assert said.splitlines()[-1].endswith("clean --yes")
    assert clean.main(["--yes"]) == 0
    assert [p.name for p in checkout.rglob("file")] == ["file"]
    assert (checkout / "build" / "signoffs" / "sha256-1" / "file").exists()


def test_the_folder_of_an_engine_that_runs_stays(checkout):
    kept = [t.name for t in clean.in_folders(checkout, running=True) if not t.remove]
    assert kept == [str(checkout / "build" / "engine")]
