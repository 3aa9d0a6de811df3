"""Checkpoints: bound to their scene and configuration, whole or absent."""

from __future__ import annotations

import hashlib
import json
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainer import log
from trainer.config import Config
from trainer.errors import classify
from trainer.files import write_atomically
from trainer.model import Splats

#: Parameters that do not change what is computed; all others, and the scene, name a checkpoint.
_FREE = frozenset({"device", "max_minutes", "log_every", "eval_every", "checkpoint_every"})


def fingerprint(config: Config, scene_digest: str) -> str:
    """What a checkpoint belongs to: the scene and every parameter that shapes the result."""
    bound = {n: v for n, v in config.values().items() if n not in _FREE}
    text = json.dumps([3, scene_digest, bound], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoints:
    """The one checkpoint of a run, in ``folder`` (None: nowhere); later ones replace it.

    It is written while training goes on; ``wait`` until it is there.
    """

    folder: Path | None
    every: int
    fingerprint: str
    _writing: list[Future[None]] = field(default_factory=list)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    @property
    def path(self) -> Path:
        """Where the checkpoint is."""
        assert self.folder
        return self.folder / "checkpoint.pt"

    def due(self, step: int) -> bool:
        """Whether one is to be saved after this step."""
        return bool(self.folder and self.every and step % self.every == 0)

    def save(self, step: int, splats: Splats, notes: dict[str, Any]) -> None:
        """Write parameters and optimiser state, as they are now, when the one before is there."""
        if not self.folder:
            return
        self.wait()
        content = {
            "fingerprint": self.fingerprint,
            "step": step,
            "values": {n: _copy(v) for n, v in splats.values().items()},
            "moments": {
                n: {k: _copy(t) for k, t in state.items()} for n, state in splats.moments().items()
            },
            # What grows while this is written.
            "notes": {k: v.copy() if isinstance(v, list | dict) else v for k, v in notes.items()},
        }
        self._writing.append(self._pool.submit(self._write, step, content))

    def wait(self) -> None:
        """Until what is being written is there; raises what that raised."""
        while self._writing:
            self._writing.pop().result()

    def _write(self, step: int, content: dict[str, Any]) -> None:
        """A full or read-only disk costs a warning only: a job that can still deliver should."""
        try:
            write_atomically(self.path, lambda stream: torch.save(content, stream))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            log.line(f"warning: no checkpoint at step {step}: {classify(error)}")
        else:
            log.event(phase="checkpoint", step=step, path=self.path)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The checkpoint of this very run, or None; others are left alone, with a line."""
        if not self.folder or not self.path.is_file():
            return None
        try:
            # torch reads past flipped bits; its archive carries checksums that zipfile compares.
            with zipfile.ZipFile(self.path) as pack:
                if pack.testzip():
                    raise zipfile.BadZipFile
            found = torch.load(self.path, map_location=device, weights_only=True)
            owner, step = found["fingerprint"], int(found["step"])
        except Exception as error:  # a damaged pickle may raise any of them
            log.line(f"warning: ignored {self.path}: damaged ({type(error).__name__})")
            return None
        if owner != self.fingerprint:
            log.line(f"warning: ignored {self.path}: it belongs to another scene or configuration")
            return None
        log.event(phase="resume", step=step)
        return dict(found)


def _copy(value: torch.Tensor) -> torch.Tensor:
    """In host memory, which a GPU without room for a copy has; and without the whole buffer that a
    view looks into, which would be saved with it.
    """
    return value.to("cpu", copy=True, memory_format=torch.contiguous_format)
