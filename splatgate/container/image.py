"""Sees an image: its configuration as the engine reports it."""

from __future__ import annotations

from typing import Any

from splatgate.container.reference import parse
from splatgate.evidence import BadInput, Image, Layer

#: Where our own image says what its GPU code needs, for images without these labels: not declared.
LABEL_ARCHS = "io.splatgate.cuda-archs"
LABEL_FLOOR = "io.splatgate.driver-floor"
LABEL_SUBJECT = "io.splatgate.subject"


def see(client: Any, ref: str) -> Image:
    """Inspect ``ref``, pulling it when it names a registry and the engine does not have it.

    Raises:
        BadInput: no such image.
    """
    import docker.errors

    try:
        found = client.images.get(ref)
    except docker.errors.ImageNotFound:
        found = _pull(client, ref)
    except docker.errors.APIError as error:
        raise BadInput(
            f"image {ref}: {error.explanation}; give REPO:TAG or REPO@sha256:…"
        ) from None
    attrs = found.attrs
    config = attrs.get("Config") or {}
    digests = [d.partition("@")[2] for d in attrs.get("RepoDigests") or ()]
    return Image(
        ref=ref,
        image_id=attrs["Id"],
        manifest_digest=digests[0] if digests else None,
        os=attrs["Os"],
        architecture=attrs["Architecture"],
        entrypoint=tuple(config.get("Entrypoint") or ()),
        cmd=tuple(config.get("Cmd") or ()),
        env=dict(entry.partition("=")[::2] for entry in config.get("Env") or ()),
        user=config.get("User") or "",
        workdir=config.get("WorkingDir") or "/",
        labels=config.get("Labels") or {},
        bytes=attrs["Size"],
        digests=tuple((attrs.get("RootFS") or {}).get("Layers") or ()),
        layers=tuple(
            Layer(created_by=layer["CreatedBy"], bytes=layer["Size"])
            for layer in reversed(found.history())
        ),
    )


def _pull(client: Any, ref: str) -> Any:
    import docker.errors

    missing = f"image {ref}: the engine has none of that name"
    if "/" not in ref:
        raise BadInput(
            f"{missing}; build it (make image) or give REPO:TAG as `docker images` shows"
        )
    from splatgate.container.ecr import Ecr

    where = parse(ref)
    # Amazon's logins hold for twelve hours: a fresh one, of the user's own credentials.
    login = Ecr(where).login() if where.ecr else None
    try:
        client.images.pull(ref, platform="linux/amd64", auth_config=login)
        return client.images.get(ref)
    except docker.errors.DockerException as error:
        text = str(getattr(error, "explanation", None) or error).splitlines()[0]
        raise BadInput(f"{missing}, and it cannot be pulled: {text}") from None


def entry_script(image: Image) -> str | None:
    """The script that the entry point runs: its first absolute .py argument, else its program."""
    for word in image.entrypoint:
        if word.endswith(".py"):
            return word if word.startswith("/") else f"{image.workdir.rstrip('/')}/{word}"
    return image.entrypoint[0] if image.entrypoint else None


def names_python(image: Image) -> bool:
    """Whether the entry point's first word is a Python."""
    return bool(image.entrypoint) and "python" in image.entrypoint[0].rpartition("/")[2]


def interpreter(image: Image, first: str) -> str:
    """The Python that the entry point runs: named in it, in the first line of its script, or
    python3.
    """
    if names_python(image):
        return image.entrypoint[0]
    if first.startswith("#!") and "python" in first:
        words = first[2:].split()
        return words[-1] if words[0].endswith("/env") else words[0]
    return "python3"
