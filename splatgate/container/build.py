"""Builds the trainer image, once for each content of ``image/``, and keeps the record and the log
as evidence.

``build/image/build.json`` is the record, ``build/image/build.log`` the log of the run that made the
image. While the record fits the sources and the engine still has its image, nothing is built.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splatgate import evidence
from splatgate.container import base, engine, provenance, starting, trust
from splatgate.container.base import Base
from splatgate.container.buildlog import NO_NAMES, failure, run_logged
from splatgate.container.engine import PLATFORM, Builder, EngineError, say
from splatgate.container.provenance import bare
from splatgate.container.trust import Trust
from splatgate.paths import BUILD, ROOT

if TYPE_CHECKING:
    import docker

SCHEMA = "splatgate/build/1"
TAG = "splatgate/3dgs-trainer:dev"
#: Compute capabilities of the job definition's instances: T4 (ml.g4dn); a release adds A10G (ml.g5)
#: and L4 (ml.g6).
ARCHS = ("7.5",)
RELEASE_ARCHS = (*ARCHS, "8.6", "8.9")


@dataclass(frozen=True)
class Options:
    """What to build. Everything but ``extra_ca`` and ``out`` is part of the image's identity."""

    context: Path = ROOT / "image"
    out: Path = BUILD / "image"
    tag: str = TAG
    release: bool = False
    base: str | None = None
    #: A PEM bundle, trusted while packages are fetched and kept out of the image; by default what
    #: this machine trusts.
    extra_ca: Path | None = None
    apt_mirror: str | None = None
    pip_index: str | None = None

    @property
    def archs(self) -> tuple[str, ...]:
        """Compute capabilities to compile for."""
        return RELEASE_ARCHS if self.release else ARCHS

    def public(self) -> dict[str, Any]:
        """The options as they are recorded: addresses without user names, passwords and queries."""
        return {
            "release": self.release,
            "base": self.base,
            "extra_ca": self.extra_ca is not None,
            "apt_mirror": bare(self.apt_mirror),
            "pip_index": bare(self.pip_index),
        }


@dataclass(frozen=True)
class BuildRecord:
    """``build.json``: which image was built from what, on what, by what, and how long it took."""

    image_id: str
    tag: str
    context_sha256: str
    archs: tuple[str, ...]
    driver_floor: str
    base: Base
    started: str
    seconds: float
    log: str
    log_sha256: str
    builder: str
    engine: str
    options: dict[str, Any]
    #: Network of the build steps: the engine's default, or ``host`` where that one does not resolve
    #: names.
    network: str = "default"
    #: Whether this run found everything built; never true in the file.
    cached: bool = False
    schema: str = SCHEMA


def build_image(options: Options) -> BuildRecord:
    """Build the image, or return the record of the one that is built.

    Starts an engine where none runs and that is allowed. Interrupted or failed, it leaves the
    earlier record as it was; a failed build's log is ``failed.log`` beside it.

    Raises:
        EngineError: no engine, no base, a bad option, or the build failed.
    """
    context = provenance.context_sha256(options.context)
    trusted = _trust(options)
    engine.check_python()
    where = starting.ensure(options.out.parent / "engine")
    link = engine.client(where)
    options.out.mkdir(parents=True, exist_ok=True)
    with _alone(options.out):
        earlier = read_record(options.out / "build.json")
        if earlier is not None and fits(earlier, options, context) and _present(link, earlier):
            say(f"image: nothing to rebuild, {earlier.tag} is {earlier.image_id[:19]}")
            return replace(earlier, cached=True)
        built = earlier is not None and earlier.archs == options.archs
        need = engine.CACHED_BYTES if built else engine.BUILD_BYTES
        for remark in engine.preflight(link, where, need):
            say(f"image: {remark}")
        builder = engine.builder(where.host)
        on = base.resolve(
            link, builder, options.base, options.apt_mirror, earlier.base if earlier else None
        )
        say(f"image: building {options.tag} on {on.ref} ({on.how}) for {', '.join(options.archs)}")
        say(f"image: the build trusts {trusted.said}")
        network = earlier.network if earlier else "default"
        with _secrets(options, trusted) as secrets:
            return _build(link, builder, options, context, on, network, secrets)


def _build(
    link: docker.DockerClient,
    builder: Builder,
    options: Options,
    context: str,
    on: Base,
    network: str,
    secrets: Mapping[str, Path],
) -> BuildRecord:
    log = options.out / "build.log"
    running = options.out / "build.log.running"
    started = datetime.now(UTC)
    begun = time.monotonic()
    labels = provenance.revision(options.context)
    oci = engine.containerd_store(link)
    try:
        while True:
            argv = command(builder, options, on, network, labels, secrets, oci)
            status = run_logged(argv, builder.environment(), running)
            text = running.read_text(errors="replace")
            if status == 0 or network == "host" or not re.search(NO_NAMES.pattern, text):
                break
            network = "host"
            say("image: names do not resolve inside the build; again with the host's network")
        if status != 0:
            os.replace(running, options.out / "failed.log")
            raise failure(text, status, options.out / "failed.log")
        image = link.images.get(options.tag)
        os.replace(running, log)
    finally:
        running.unlink(missing_ok=True)
    (options.out / "failed.log").unlink(missing_ok=True)
    record = BuildRecord(
        image_id=image.id or "",
        tag=options.tag,
        context_sha256=context,
        archs=options.archs,
        driver_floor=image.labels.get("io.splatgate.driver-floor", ""),
        base=on,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - begun, 1),
        log=log.name,
        log_sha256=hashlib.sha256(log.read_bytes()).hexdigest(),
        builder=builder.version,
        engine=str(link.version().get("Version", "")),
        options=options.public() | {"extra_ca": "extra_ca" in secrets},
        network=network,
    )
    evidence.write(options.out / "build.json", record)
    size = int(image.attrs.get("Size", 0)) / engine.GB
    say(f"image: {record.tag} is {record.image_id[:19]}, {size:.1f} GB, {record.seconds:.0f} s")
    return record


def read_record(path: Path) -> BuildRecord | None:
    """The record of an earlier build, or None when there is none of this schema."""
    try:
        record = evidence.read(path, BuildRecord)
    except evidence.BadInput:
        return None
    return record if record.schema == SCHEMA else None


def fits(record: BuildRecord, options: Options, context: str) -> bool:
    """Whether a recorded build is the one that is asked for. Certificates do not change what is
    built.
    """
    then, now = ({**o, "extra_ca": None} for o in (record.options, options.public()))
    return (record.context_sha256, record.tag, tuple(record.archs), then) == (
        context,
        options.tag,
        options.archs,
        now,
    )


def _present(link: docker.DockerClient, record: BuildRecord) -> bool:
    """Whether the engine has the recorded image; gives it its tag back when another took it."""
    import docker.errors

    try:
        image = link.images.get(record.image_id)
    except docker.errors.ImageNotFound:
        return False
    if record.tag not in image.tags:
        image.tag(record.tag)
    return True


def command(
    builder: Builder,
    options: Options,
    on: Base,
    network: str,
    labels: Mapping[str, str],
    secrets: Mapping[str, Path],
    oci: bool = False,
) -> list[str]:
    """The command that builds. Labels that change by themselves are its own: no cache to spoil.

    ``oci``: the engine would keep and push the image in OCI's form, which SageMaker's endpoints
    refuse (contract, section 4), unless it is told not to.
    """
    argv = [*builder.argv]
    if oci and "--load" in argv:
        argv[argv.index("--load")] = "--output=type=image,oci-mediatypes=false"
    argv += ["--platform", PLATFORM, "--progress", "plain", "--tag", options.tag]
    if network != "default":
        argv += ["--network", network]
    for name, path in secrets.items():
        argv += ["--secret", f"id={name},src={path}"]
    for key, value in {"BASE": on.ref, "CUDA_ARCHS": ";".join(options.archs)}.items():
        argv += ["--build-arg", f"{key}={value}"]
    labels = {**labels, "base.name": base.DEFAULT if on.how == "pulled" else on.ref}
    if on.digest:
        labels["base.digest"] = on.digest
    for key, value in sorted(labels.items()):
        argv += ["--label", f"org.opencontainers.image.{key}={value}"]
    return [*argv, str(options.context)]


def _trust(options: Options) -> Trust:
    """The certificates to trust while packages are fetched: those given, else the machine's."""
    if options.extra_ca is None:
        return trust.machine()
    found = trust.read(options.extra_ca)
    if not found:
        raise EngineError(
            f"EXTRA_CA names {options.extra_ca}, which holds no certificate", "give a PEM bundle"
        )
    return Trust("\n".join([*found, ""]), f"the certificates of EXTRA_CA: {len(found)}")


@contextmanager
def _secrets(options: Options, trusted: Trust) -> Iterator[dict[str, Path]]:
    """Files of the build's secrets, by name. Addresses may hold passwords, so they go this way."""
    secrets = {
        "extra_ca": trusted.pem,
        "apt_mirror": options.apt_mirror,
        "pip_index": options.pip_index,
    }
    with tempfile.TemporaryDirectory(prefix="splatgate-") as folder:
        files = {}
        for name, value in secrets.items():
            if value:
                files[name] = Path(folder) / name
                files[name].write_text(value)
        yield files


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder: of two builds at once, the second waits and finds the first's image."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("image: another build is running here; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(argv: Sequence[str]) -> int:
    """Verb ``image``. Exit status 0 when the image is there, 3 when it could not be built."""
    try:
        options, as_json = parse(argv, os.environ)
    except EngineError as error:
        say(f"splatgate image: {error}")
        return 3
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        record = build_image(options)
    except EngineError as error:
        say(f"splatgate image: {error}")
        return 3
    finally:
        signal.signal(signal.SIGTERM, previous)
    if as_json:
        shown = {**json.loads(evidence.to_json(record)), "schema": "splatgate/image/1"}
        sys.stdout.write(json.dumps(shown, indent=1, sort_keys=True) + "\n")
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def parse(argv: Sequence[str], env: Mapping[str, str]) -> tuple[Options, bool]:
    """The options of the verb, and whether JSON is wanted. An option wins over its variable."""
    parser = argparse.ArgumentParser(
        prog="splatgate image",
        description="Build the trainer image, unless the one that is there was made from "
        "the same image/ and options.",
        epilog="Environment variables for make: RELEASE=1, BASE, EXTRA_CA, "
        "APT_MIRROR, PIP_INDEX_URL. Record and log: build/image/.",
    )
    parser.add_argument(
        "--release",
        action="store_true",
        default=env.get("RELEASE", "") not in ("", "0", "false", "no"),
        help=f"compile for {', '.join(RELEASE_ARCHS)} instead of {', '.join(ARCHS)} (RELEASE=1)",
    )
    parser.add_argument(
        "--base",
        metavar="REF",
        default=env.get("BASE") or None,
        help=f"default: {base.DEFAULT}, by digest; made with debootstrap where no registry answers",
    )
    parser.add_argument(
        "--extra-ca",
        metavar="PEM",
        default=env.get("EXTRA_CA") or None,
        help="CA certificates to trust while packages are fetched, by default those that this "
        f"machine trusts ({', '.join(trust.VARIABLES)}, else what was added to the system's "
        "store); none stay in the image",
    )
    parser.add_argument(
        "--apt-mirror",
        metavar="URL",
        default=env.get("APT_MIRROR") or None,
        help="Debian mirror with main, contrib and non-free; security fixes at URL-security",
    )
    parser.add_argument(
        "--pip-index",
        metavar="URL",
        default=env.get("PIP_INDEX_URL") or None,
        help="Python package index (simple API) instead of pip's own",
    )
    parser.add_argument("--tag", metavar="T", default=TAG, help=f"default: {TAG}")
    parser.add_argument("--json", action="store_true", help="the build record on standard output")
    given = parser.parse_args(argv)
    return Options(
        tag=given.tag,
        release=given.release,
        base=given.base,
        extra_ca=Path(given.extra_ca) if given.extra_ca else None,
        apt_mirror=given.apt_mirror,
        pip_index=given.pip_index,
    ), given.json
