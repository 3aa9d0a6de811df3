"""The stage after training: its compressor, run on the model as SageMaker packs it.

The tool is the real one, `@playcanvas/splat-transform`, from ``requirements/node`` with its lock
file, installed when it is first needed. Nothing here judges.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from splatgate.container import trust
from splatgate.evidence import Compression, Member, ToolRun, write
from splatgate.evidence.missing import NotVerified
from splatgate.expectations import COMPRESSOR, FORMATS, NODE, READ_BACK, VIEWER
from splatgate.paths import BUILD, ROOT
from splatgate.sagemaker.guards import whole

Say = Callable[[str], None]
LOCKED = ROOT / "requirements" / "node"
INSTALLED = BUILD / "node"
#: The artefact after compression and back, below ``compressed/``.
ROUND_TRIP = "roundtrip.ply"
#: Seconds that one run, and the installation, may take.
RUN_LIMIT, INSTALL_LIMIT = 300.0, 600.0
#: The tool's options: no GPU, one pass of k-means over the colours' bands in .sog (its quality is
#: not judged here, that it can be written is), overwrite.
OPTIONS = ("-q", "-w", "-g", "cpu", "-i", "1", "--max-workers", "2")


@dataclass(frozen=True)
class Tool:
    """The compressor, ready to run."""

    command: tuple[str, ...]
    version: str
    node: str


def install(say: Say) -> Tool:
    """The compressor of ``requirements/node``, installed into ``build/node`` if it is not there.

    Raises:
        NotVerified: no Node, one too old, or the registry does not serve it.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotVerified(f"no Node: install Node {NODE} or newer, with npm")
    version = _output([node, "--version"]).lstrip("v")
    if not re.match(r"\d+\.", version) or int(version.partition(".")[0]) < NODE:
        raise NotVerified(f"Node {version or 'of no version'}: {NODE} or newer is needed")
    lock = (LOCKED / "package-lock.json").read_bytes()
    folder = INSTALLED / hashlib.sha256(lock).hexdigest()[:12]
    package = folder / "node_modules" / COMPRESSOR
    INSTALLED.mkdir(parents=True, exist_ok=True)
    with FileLock(INSTALLED / "lock"):
        if not (folder / "ready").exists():
            say(f"installing {COMPRESSOR} into build/node (some 110 MB, the first time only)")
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(LOCKED, folder)
            # Peers are for use as a library; scripts would fetch what the lock does not hold.
            _npm([npm, "ci", "--omit=peer", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        tool = Tool(
            command=(node, str(package / "bin" / "cli.mjs")),
            version=str(json.loads((package / "package.json").read_text())["version"]),
            node=version,
        )
        if not (folder / "ready").exists():
            _try(tool)
            (folder / "ready").touch()
    return tool


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip()


def _npm(command: list[str], folder: Path) -> None:
    env = {**os.environ}
    if trusted := trust.machine().pem:
        # Node reads no other program's variable, nor the system's store.
        (folder / "trusted.pem").write_text(trusted)
        env["NODE_EXTRA_CA_CERTS"] = str(folder / "trusted.pem")
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotVerified(f"npm ci of {COMPRESSOR} took more than {INSTALL_LIMIT:.0f} s") from None
    if done.returncode:
        said = [x for x in done.stderr.splitlines() if "error" in x and "complete log" not in x]
        first = " ".join(said[:2]) or "no output"
        raise NotVerified(f"{COMPRESSOR} cannot be installed: {first[:300]}; is npm online?")


def _try(tool: Tool) -> None:
    """Compress splats of our own, so that a tool that does not run here is no fault of an image.

    Raises:
        NotVerified: it does not.
    """
    from splatgate.scene.splats import Splats, write_splats

    draw = np.random.default_rng(0)

    def some(*shape: int) -> npt.NDArray[np.float32]:
        return draw.normal(size=shape).astype(np.float32)

    known = Splats(some(64, 3), some(64, 4), some(64, 3), some(64), some(64, 1, 3), some(64, 15, 3))
    with tempfile.TemporaryDirectory() as name:
        write_splats(Path(name) / "known.ply", known)
        for form in FORMATS:
            done = run(tool, Path(name), Path(name) / "known.ply", f"known.{form}")
            if done.exit:
                raise NotVerified(f"{COMPRESSOR} does not run here: {done.stderr or done.exit}")


def archived(job: Path) -> tuple[Member, ...]:
    """Every .ply at the root of a job's archive, where the stage's finder looks.

    Not what lies deeper, nor a half-written or hidden file: a checkpoint, ``.ply.tmp``, macOS's
    ``._model.ply``.
    """
    found = sorted((job / "model").glob("*.ply"))
    return tuple(_member(p, p.name) for p in found if p.is_file() and p.name[0] != ".")


def _member(path: Path, name: str) -> Member:
    data = path.read_bytes()
    return Member(path=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def compress(tool: Tool, job: Path, say: Say = lambda line: None) -> Compression:
    """Run the tool on the model of a job's folder, and write what it made and what it said there.

    The only .ply at the archive's root goes to every format, and one of them back to .ply. Where
    there is none, or more than one, nothing is run.
    """
    found = archived(job)
    runs: list[ToolRun] = []
    with whole(job / "compressed") as temp:
        if len(found) == 1:
            source = job / "model" / found[0].path
            stem = source.name.removesuffix(".ply")
            for form in FORMATS:
                say(f"compressing {source.name} to .{form}")
                runs.append(run(tool, temp, source, f"{stem}.{form}"))
            if (back := temp / f"{stem}.{READ_BACK}").exists():
                runs.append(run(tool, temp, back, ROUND_TRIP))
        files = tuple(_member(p, p.name) for p in sorted(temp.iterdir()))
        for page in temp.glob(f"*.{VIEWER}"):
            page.unlink()
    record = Compression(
        tool=COMPRESSOR,
        version=tool.version,
        node=tool.node,
        found=found,
        runs=tuple(runs),
        files=files,
    )
    write(job / "compressed.json", record)
    return record


def run(
    tool: Tool, folder: Path, source: Path, target: str, options: tuple[str, ...] = ()
) -> ToolRun:
    """Run the tool in ``folder``, from a file to the file ``target`` there, with more options.

    Raises:
        NotVerified: it did not end in time.
    """
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*tool.command, *OPTIONS, os.path.relpath(source, folder), *options, target],
            cwd=folder,
            env={**os.environ, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=RUN_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotVerified(f"{COMPRESSOR} on {source.name}: over {RUN_LIMIT:.0f} s") from None
    return ToolRun(
        source=source.name,
        target=target,
        exit=done.returncode,
        stderr=_said(done.stderr),
        seconds=round(time.monotonic() - began, 2),
    )


def _said(text: str) -> str:
    """What a person reads of an error output: no stack, no paths of this machine."""
    lines = [x.strip() for x in text.splitlines() if not re.match(r"\s+at |.*file://", x)]
    return "; ".join(x for x in lines if x)[-600:]
