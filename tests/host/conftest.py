"""The training host against a tiny probe image, on a real engine.

The image is made of this machine's own Python, or of the one that SPLATGATE_PROBE_IMAGE names (it
must have /usr/bin/python3); skipped where no engine answers.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from splatgate.container import sweep
from splatgate.evidence import Job, Limits
from splatgate.sagemaker.assumptions import MIB, Assumptions
from splatgate.sagemaker.host import TrainingHost
from splatgate.sagemaker.request import Request, smoke_request
from tests.host.rootfs import rootfs

#: Small enough for any engine, so that limits asked are limits applied.
SMALL = Limits(memory_bytes=256 * MIB, shm_bytes=64 * MIB, pids=100, cpus=1.0)


#: Tag of the image that all workers of this run build on; the controller removes it.
BASE = "SPLATGATE_HOST_TESTS_BASE"


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[BASE] = f"splatgate/host-tests:{uuid.uuid4().hex[:12]}"


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        base = os.environ.pop(BASE)
        Path(tempfile.gettempdir(), f"{base.replace('/', '.')}.lock").unlink(missing_ok=True)
        import docker
        import docker.errors

        with contextlib.suppress(docker.errors.DockerException):
            docker.from_env().images.remove(base)


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    """A client of the engine; skips where none answers."""
    import docker

    try:
        found = docker.from_env()
        found.ping()
    except Exception as error:
        pytest.skip(f"no engine answers: {error}")
    yield found
    found.close()


@pytest.fixture(scope="session")
def run_id(client: Any) -> Iterator[str]:
    """Label of everything these tests make; nothing of it may be left."""
    name = f"host-tests-{uuid.uuid4().hex[:8]}"
    yield name
    left = sweep.leftovers(client, name)
    sweep.sweep(client, name)
    assert left == {"containers": [], "volumes": [], "networks": []}, left


@pytest.fixture(scope="session")
def build(client: Any) -> Iterator[Callable[..., str]]:
    """Builds an image from a Dockerfile and files, returns its id, removes it at the end."""
    made = []
    base = os.environ.get("SPLATGATE_PROBE_IMAGE")
    if not base:
        base = os.environ[BASE]
        with FileLock(Path(tempfile.gettempdir()) / f"{base.replace('/', '.')}.lock"):
            if not client.images.list(base):
                client.api.import_image_from_data(rootfs(), *base.split(":"))

    def make(dockerfile: str, **files: bytes) -> str:
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            for name, data in {"Dockerfile": dockerfile.encode(), **files}.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        context.seek(0)
        # A tag of our own: an image of equal content may have another's tag as well.
        tag = f"splatgate/host-tests:{uuid.uuid4().hex[:12]}"
        image, _ = client.images.build(
            fileobj=context, custom_context=True, buildargs={"BASE": base}, rm=True, tag=tag
        )
        made.append(tag)
        return str(image.id)

    yield make
    for tag in reversed(made):
        client.images.remove(tag)


@pytest.fixture(scope="session")
def probe(build: Callable[..., str]) -> str:
    """The probe image."""
    folder = Path(__file__).parent / "probe"
    files = {"probe.py": (folder / "probe.py").read_bytes(), "own": b"the image's"}
    return build((folder / "Dockerfile").read_text(), **files)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A channel's data: a nested file, a hidden one, an empty one."""
    root = tmp_path / "scene"
    (root / "sparse" / "0").mkdir(parents=True)
    (root / "sparse" / "0" / "cameras.txt").write_text("camera\n")
    (root / ".hidden").write_text("h")
    (root / "empty bild ü.jpg").write_bytes(b"")
    return root


@pytest.fixture
def ask() -> Callable[..., Request]:
    """Builds a request whose probe does the given steps."""
    import json

    def make(*steps: str, **changes: Any) -> Request:
        return replace(smoke_request(hyperparameters={"do": json.dumps(steps)}), **changes)

    return make


@pytest.fixture
def disks() -> Callable[[int], list[str]]:
    """Lists the loop devices of a job's disk of a given size, less the few bytes of its input."""

    def found(size: int) -> list[str]:
        # A device whose file has a name is somebody else's.
        files = Path("/sys/block").glob("loop*/loop/backing_file")
        ours = [p.parent.parent for p in files if "(deleted)" in p.read_text()]
        sizes = {p.name: int((p / "size").read_text()) * 512 for p in ours}
        return [name for name, has in sizes.items() if size - 5000 < has <= size]

    return found


@pytest.fixture
def names_in() -> Callable[[Path], list[str]]:
    """Lists the members of an archive."""

    def names(path: Path) -> list[str]:
        with tarfile.open(path) as tar:
            return sorted(tar.getnames())

    return names


@pytest.fixture
def run_job(
    client: Any, run_id: str, probe: str, scene: Path, tmp_path: Path
) -> Callable[..., Job]:
    """Runs one job on the probe image; evidence goes to ``tmp_path / "job"``."""

    def run(
        request: Request,
        *,
        image: str = probe,
        grace: float = 3.0,
        assumed: Assumptions | None = None,
        **options: Any,
    ) -> Job:
        labels = sweep.labels(run_id)
        host = TrainingHost(client, labels=labels, say=lambda _: None, assumed=assumed, grace=grace)
        options = {"limits": SMALL, "deadline": 60.0, "channels": {"training": scene}} | options
        return host.run(image, request, folder=tmp_path / "job", key="probe-0", **options)

    return run
