"""What is the same whoever looks at an image, and the door to an image that lies in an archive or a
registry: read from its layers, without an engine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from filelock import FileLock

from splatgate import checklist as checklists
from splatgate import subject
from splatgate.container import lint, provenance, sbom
from splatgate.container.backends import NotRecorded, Recording
from splatgate.container.layers import images
from splatgate.container.layers.backend import LayersBackend
from splatgate.container.layers.contents import contents
from splatgate.container.layers.entries import LayerContent
from splatgate.container.layers.tree import Tree
from splatgate.evidence import (
    BadInput,
    Contents,
    Header,
    Image,
    LayerFiles,
    Lint,
    Machine,
    Pipeline,
    Registry,
    T,
    read,
    write,
    write_bytes,
)
from splatgate.evidence.missing import NotVerified
from splatgate.paths import BUILD, PACKAGE, ROOT
from splatgate.record import suite
from splatgate.sources import resume
from splatgate.sources.process import source_hash
from splatgate.sources.recorded import CONTENTS, NOT_PUSHED, Recorded

if TYPE_CHECKING:
    from splatgate.sources.run import Run

#: What is known of layers, by digest.
CACHE = BUILD / "layers"
#: SageMaker mounts over it (contract 2.1, trap 5).
MOUNTED = "/opt/ml"
NO_ENGINE = "no engine: needs a running container"


class Looking(Recorded):
    """Evidence of ``run.image``, collected as it is asked for.

    What has been seen once in a run is not looked at again, whichever worker asks: every look is
    made under a file lock in the run's folder, and leaves a whole record or none.

    Raises:
        BadInput: no such image, or no scene.
    """

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        super().__init__(run.folder, run.scene, run.request, say, run.pipeline, run.pipeline_input)
        self.run = run

    def read_layers(self) -> tuple[LayerContent, ...]:
        """Every layer of the image, from the base up."""
        raise NotImplementedError

    def begin(self, image: Image, machine: Machine) -> None:
        """Write down what this run is about."""
        from splatgate.sagemaker.channels import tree_hash

        if not self.scene_path.is_dir():
            raise BadInput(f"scene {self.scene_path}: no such folder; give --scene DIR")
        write(self.folder / "image.json", image)
        self._copy_build(image)
        for name, path in self.run.given.items():
            write_bytes(self.folder / name, path.read_bytes())
        header = Header(
            run=self.run.id,
            image_id=image.image_id,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine,
            scene=tree_hash(self.scene_path),
            scene_name=self.scene_path.name,
            extra={
                resume.SUITE: source_hash(PACKAGE),
                "suite": msgspec.to_builtins(suite(checklists.load().sha256)),
            },
        )
        write(self.folder / "evidence.json", resume.take_over(self.run, header, self.say))

    def _copy_build(self, image: Image) -> None:
        folder = BUILD / "image"
        path = folder / "build.json"
        if not path.exists() or (record := read(path, dict)).get("image_id") != image.image_id:
            return
        shutil.copyfile(path, self.folder / "build.json")
        if (log := folder / "build.log").exists():
            shutil.copyfile(log, self.folder / "build.log")
        # The locks beside the Dockerfile are this image's only while nothing there has changed.
        context = ROOT / "image"
        if record.get("context_sha256") == provenance.context_sha256(context):
            shutil.copyfile(context / "Dockerfile", self.folder / "Dockerfile")
            for lock in sorted((context / "requirements").glob("*.txt")):
                write_bytes(self.folder / "lock" / lock.name, lock.read_bytes())

    def lock(self, name: str) -> FileLock:
        """One look at a time over all workers of the run."""
        path = self.folder / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

    def _layers(self) -> tuple[LayerContent, ...]:
        return self.once("layers", self._read)

    def _read(self) -> tuple[LayerContent, ...]:
        path = self.folder / "layers.json"
        with self.lock("layers"):
            if path.exists():
                return self.read_layers()
            with self.run.timed("layers"):
                found = self.read_layers()
            write(path, tuple(layer.leftovers() for layer in found))
            return found

    def tree(self, hidden: tuple[str, ...] = ()) -> Tree:
        """The image's files, with folders that something is mounted over emptied."""
        return self.once(f"tree {hidden}", lambda: Tree(self._layers(), hidden))

    def layers(self) -> tuple[LayerFiles, ...]:
        """What each layer of the image holds by itself."""
        self._layers()
        return super().layers()

    def contents(self) -> Contents:
        """What the layers hold together, and its bill of materials."""
        path = self.folder / CONTENTS
        tree, image = self.tree(), self.image()
        with self.lock("contents"):
            if not path.exists():
                given = self.folder / "subject.toml"
                profile = subject.parse(given.read_text(), str(given)) if given.exists() else None
                seen = contents(tree, image, profile.entry_script if profile else None)
                write(self.folder / "sbom.cdx.json", sbom.cyclonedx(image, seen))
                write(path, seen)
        return super().contents()

    def from_layers(self) -> LayersBackend:
        """The testinfra backend that answers from layers, as a job would see the files."""
        recording = Recording(self.folder / "container" / "commands.jsonl")
        return LayersBackend(self.image(), self.tree((MOUNTED,)), recording)

    def registry(self) -> Registry:
        """Ask the registry that the image was pushed to, once, or hand out its answer.

        Raises:
            NotVerified: the image names none, and none was given.
        """
        from splatgate.container import reference, registry
        from splatgate.sagemaker.request import load

        name = self.image().ref
        ref = self.run.pushed or (name if reference.host(name) else None)
        if ref is None:
            raise NotVerified(NOT_PUSHED)
        path = self.folder / "registry.json"
        with self.lock("registry"):
            if not path.exists():
                self.say(f"registry: asking for {ref}")
                asked = load(self.request_path).image if self.request_path else None
                with self.run.timed("registry"):
                    found = registry.look(ref, asked or None)
                    # The very bytes, whose hashes are what an image is known by.
                    for part, data in registry.bytes_of(found.image).items():
                        write_bytes(self.folder / part, data)
                    write(path, found)
        return super().registry()

    def lint(self) -> Lint:
        """Run hadolint on the Dockerfile at hand, or hand out what it said.

        Raises:
            NotVerified: there is no Dockerfile, or no hadolint.
        """
        path, text = self.folder / "hadolint.json", self.file("Dockerfile")
        with self.lock("hadolint"):
            if text is not None and not path.exists():
                with self.run.timed("hadolint"):
                    write(path, lint.look(text))
        return super().lint()

    def pipeline(self) -> Pipeline:
        """The state machine given, else the reference one, recorded as it is read."""
        from splatgate.pipeline.source import REFERENCE, beside

        path = self.folder / "pipeline.json"
        with self.lock("pipeline"):
            if not path.exists():
                write(path, beside(self.pipeline_path or REFERENCE, self.pipeline_input))
        return read(path, Pipeline)


def open_any(ref: str, say: Callable[[str], None]) -> images.Opened:
    """Open an image in a file, a folder or a registry.

    Raises:
        BadInput: it cannot be read.
    """
    if images.is_image(Path(ref)):
        return images.open_image(Path(ref), say)
    from splatgate.container.layers.remote import open_remote

    return open_remote(ref, say)


class Layers(Looking):
    """An image that lies in an archive, a folder or a registry. Nothing of it is run.

    Raises:
        BadInput: it cannot be read.
    """

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        super().__init__(run, say)
        with self.lock("evidence"):
            if not (self.folder / "evidence.json").exists():
                # The layers come first: sizes are told by them alone.
                self.begin(images.image_of(self.opened(), self._layers()), Machine())

    def opened(self) -> images.Opened:
        """The image, with its configuration read."""
        return self.once("opened", lambda: open_any(str(self.run.image), self.say))

    def read_layers(self) -> tuple[LayerContent, ...]:
        """Every layer, each read once and kept by its digest."""
        return images.read_layers(self.opened(), CACHE, self.say)

    def backend(self) -> Any:
        """The testinfra backend over the layers."""
        return self.from_layers()

    def _record(self, name: str, kind: type[T]) -> T:
        try:
            return super()._record(name, kind)
        except NotRecorded:
            if name.startswith(("container/", "jobs/", "gpu/")):
                raise NotVerified(NO_ENGINE) from None
            raise
