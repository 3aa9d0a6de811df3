"""The image that ours is built on: by digest where a registry answers, made with debootstrap where
none does.

A base that an earlier build used is used again while the engine has it, so that a second run
rebuilds nothing.
"""

from __future__ import annotations

import datetime
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from splatgate.container import starting
from splatgate.container.engine import PLATFORM, Builder, EngineError, say

if TYPE_CHECKING:
    import docker

#: The base by name; the Dockerfile's default.
DEFAULT = "debian:trixie-slim"
SUITE = "trixie"
#: Debian's own mirror, as debootstrap's default and the official image have it.
MIRROR = "http://deb.debian.org/debian"
MADE = "splatgate/base"
LABEL = "io.splatgate.base"
#: A registry that answers delivers 30 MB in seconds.
PULL_SECONDS = 120.0
DEBOOTSTRAP_SECONDS = 900.0


@dataclass(frozen=True)
class Base:
    """What the image was built on.

    ``ref`` is what the build was told, ``digest`` the registry's (None where there was none),
    ``how`` is ``pulled``, ``debootstrap`` or ``given``.
    """

    ref: str
    digest: str | None
    how: str


def resolve(
    link: docker.DockerClient,
    builder: Builder,
    asked: str | None,
    mirror: str | None = None,
    earlier: Base | None = None,
) -> Base:
    """The base to build on, fetched or made when the engine does not have it.

    Args:
        link: the engine.
        builder: the docker command; pulls with the user's own registry login.
        asked: a reference that was asked for, or None for the default.
        mirror: a Debian mirror for debootstrap, instead of Debian's own.
        earlier: the base of the last build.

    Raises:
        EngineError: the base can neither be pulled nor made.
    """
    if earlier is not None and asked in (None, DEFAULT, earlier.ref) and _has(link, earlier.ref):
        return earlier
    wanted = asked or DEFAULT
    if asked is not None and asked != DEFAULT and _has(link, asked):
        return Base(asked, _digest(link, asked), "given")
    say(f"base: asking the registry for {wanted}")
    refused = _pull(builder, wanted)
    if refused is None:
        digest = _digest(link, wanted)
        if asked is not None and asked != DEFAULT:
            return Base(asked, digest, "given")
        name = wanted.partition(":")[0]
        return Base(f"{name}@{digest}" if digest else wanted, digest, "pulled")
    if asked is not None and asked != DEFAULT:
        raise EngineError(
            f"the base {asked} is not here and cannot be pulled: {refused}", "correct BASE"
        )
    made = link.images.list(name=MADE, filters={"label": f"{LABEL}=debootstrap"})
    tags = sorted(tag for image in made for tag in image.tags)
    if tags:
        say(f"base: no registry ({refused}); using {tags[-1]}, made here earlier with debootstrap")
        return Base(tags[-1], None, "debootstrap")
    say(f"base: no registry ({refused}); making one with debootstrap, takes about a minute")
    return Base(debootstrap(builder, mirror), None, "debootstrap")


def _has(link: docker.DockerClient, ref: str) -> bool:
    import docker.errors

    try:
        link.images.get(ref)
    except docker.errors.DockerException:
        return False
    return True


def _digest(link: docker.DockerClient, ref: str) -> str | None:
    """The digest by which a registry serves an image, or None when it came from none."""
    served = link.images.get(ref).attrs.get("RepoDigests") or []
    return served[0].partition("@")[2] if served else None


def _pull(builder: Builder, ref: str) -> str | None:
    """Pull; why it failed, in a line, or None when it did not."""
    argv = [builder.program, "pull", "--quiet", "--platform", PLATFORM, ref]
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=PULL_SECONDS,
            env=builder.environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {PULL_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or ["docker pull failed"]
    return lines[-1].removeprefix("Error response from daemon: ")[:200]


def debootstrap(builder: Builder, mirror: str | None = None) -> str:
    """Make a minimal Debian as an image of the engine. Returns its reference.

    Needs root for a moment, and debootstrap, which is installed where that is allowed.

    Raises:
        EngineError: it may not be made here, or debootstrap failed; says its last line.
    """
    no_way = "set BASE to a Debian trixie image that the engine has, or use a registry that answers"
    sudo = starting.privilege()
    if sudo is None:
        raise EngineError(
            "no registry answers, and making a base with debootstrap needs root", no_way
        )
    if shutil.which("debootstrap", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        if not starting.debian():
            raise EngineError("no registry answers, and there is no debootstrap here", no_way)
        starting.install(sudo, ["debootstrap"])
    mirror = (mirror or MIRROR).rstrip("/")
    tag = f"{MADE}:{SUITE}-{datetime.datetime.now(datetime.UTC):%Y%m%d}"
    work = Path(tempfile.mkdtemp(prefix="splatgate-base-", dir="/var/tmp"))
    root = work / "root"
    try:
        _step(
            [*sudo, "debootstrap", "--variant=minbase", "--arch=amd64", SUITE, str(root), mirror],
            "debootstrap",
            no_way,
        )
        (work / "debian.sources").write_text(sources(mirror))
        (work / "slim.sh").write_text(SLIM)
        _step(
            [*sudo, "sh", str(work / "slim.sh"), str(root), str(work / "debian.sources")],
            "slimming",
            no_way,
        )
        _import(sudo, builder, root, tag, no_way)
    finally:
        subprocess.run([*sudo, "rm", "-rf", "--one-file-system", str(work)], check=False)
    return tag


def sources(mirror: str) -> str:
    """The package sources of the base: the release, its updates, and its security fixes."""
    signed = "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    return (
        f"Types: deb\nURIs: {mirror}\nSuites: {SUITE} {SUITE}-updates\nComponents: main\n{signed}\n"
        f"Types: deb\nURIs: {mirror}-security\nSuites: {SUITE}-security\nComponents: main\n{signed}"
    )


#: What the official slim images leave out, too: no package needs it. Copyright files stay.
SLIM = """
set -eu
cd "$1"
rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* var/cache/debconf/*-old
rm -rf usr/share/man/* usr/share/info/* usr/share/locale/* usr/share/lintian
find usr/share/doc \\( -type f ! -name copyright -o -type l \\) -delete
rm -f etc/resolv.conf etc/hostname etc/apt/sources.list
: > etc/machine-id
cp "$2" etc/apt/sources.list.d/debian.sources
chmod 0644 etc/apt/sources.list.d/debian.sources
"""


def _step(argv: Sequence[str], what: str, how: str) -> None:
    """Run one command to its end, with a line of progress every ten seconds."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        seconds = 0
        try:
            while True:
                try:
                    status = process.wait(timeout=10)
                    break
                except subprocess.TimeoutExpired:
                    seconds += 10
                    say(f"base: {what}, {seconds} s")
                if seconds > DEBOOTSTRAP_SECONDS:
                    raise EngineError(f"{what} did not end in {DEBOOTSTRAP_SECONDS:.0f} s", how)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if status != 0:
            output.seek(0)
            lines = output.read().decode("utf-8", "replace").strip().splitlines() or ["no output"]
            raise EngineError(f"{what} failed with {status}: {lines[-1]}", how)


def _import(sudo: Sequence[str], builder: Builder, root: Path, tag: str, how: str) -> None:
    tar = subprocess.Popen(
        [*sudo, "tar", "--numeric-owner", "--one-file-system", "-C", str(root), "-c", "."],
        stdout=subprocess.PIPE,
    )
    changes = ['CMD ["bash"]', f"LABEL {LABEL}=debootstrap", f"LABEL {LABEL}.suite={SUITE}"]
    argv = [builder.program, "import", "--platform", PLATFORM]
    for change in changes:
        argv += ["--change", change]
    done = subprocess.run(
        [*argv, "-", tag],
        stdin=tar.stdout,
        capture_output=True,
        text=True,
        env=builder.environment(),
        check=False,
    )
    if tar.stdout is not None:
        tar.stdout.close()
    if tar.wait() != 0 or done.returncode != 0:
        raise EngineError(f"docker import failed: {done.stderr.strip()[:200]}", how)
    say(f"base: made {tag}")
