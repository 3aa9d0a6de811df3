"""What an image is built from: the hash of its sources, and what git says of them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from splatgate.container.engine import EngineError


def context_sha256(context: Path) -> str:
    """Content hash of what the builder gets: paths, executable bits and bytes of all files not
    ignored.

    Raises:
        EngineError: there is no Dockerfile, or nothing to hash.
    """
    if not (context / "Dockerfile").is_file():
        raise EngineError(
            f"{context} holds no Dockerfile", "run this from a clone of the repository"
        )
    from docker.utils.build import exclude_paths

    ignore = context / ".dockerignore"
    lines = ignore.read_text().splitlines() if ignore.is_file() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    digest = hashlib.sha256()
    for name in sorted(exclude_paths(str(context), patterns, dockerfile="Dockerfile")):
        path = context / name
        if path.is_symlink():
            entry = f"link {os.readlink(path)}"
        elif path.is_file():
            mode = "x" if path.stat().st_mode & 0o100 else "-"
            entry = f"{mode} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        else:
            continue
        digest.update(f"{name}\0{entry}\n".encode())
    return digest.hexdigest()


def revision(context: Path) -> dict[str, str]:
    """Version, revision and source of the sources, as far as git and pyproject.toml tell."""
    labels = {}
    project = context.parent / "pyproject.toml"
    found = (
        re.search(r'^version = "([^"]+)"', project.read_text(), re.M) if project.is_file() else None
    )
    if found:
        labels["version"] = found.group(1)
    commit = _git(context, "log", "-1", "--format=%H", "--", ".")
    if commit:
        changed = _git(context, "status", "--porcelain", "--", ".")
        labels["revision"] = f"{commit}-dirty" if changed else commit
    origin = _git(context, "remote", "get-url", "origin") or ""
    if origin.startswith(("https://", "http://")):
        labels["source"] = bare(origin) or ""
    return labels


def _git(folder: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *args],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def bare(address: str | None) -> str | None:
    """An address without user, password and query."""
    if not address:
        return None
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()
