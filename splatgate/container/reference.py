"""References of images: ``HOST/NAME:TAG@DIGEST`` as docker reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from splatgate.evidence import BadInput

HUB = "docker.io"
#: Source: github.com/distribution/reference, regexp.go.
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
NAME = re.compile(rf"{_PART}(?:/{_PART})*")
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
HOST = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?")
#: Private registries of Amazon ECR, the dual-stack names included (Amazon ECR User Guide,
#: "Private registry").
ECR = re.compile(
    r"(?P<account>\d{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\."
    r"(?:amazonaws\.com(?:\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn)"
)


@dataclass(frozen=True)
class Reference:
    """An image by registry, name, and tag or digest. ``host`` is None where none was written."""

    host: str | None
    name: str
    tag: str | None
    digest: str | None

    @property
    def repository(self) -> str:
        """Host and name."""
        return f"{self.host}/{self.name}" if self.host else self.name

    @property
    def manifest(self) -> str:
        """What a registry is asked for: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    @property
    def ecr(self) -> re.Match[str] | None:
        """Account and region, where the host is Amazon ECR's."""
        return ECR.fullmatch(self.host or "")

    @property
    def loopback(self) -> bool:
        """Whether the registry is on this machine, where docker too goes without TLS."""
        host = re.sub(r":\d+$", "", self.host or "")
        try:
            return host == "localhost" or ip_address(host.strip("[]")).is_loopback
        except ValueError:
            return False


def host(text: str) -> str | None:
    """The registry that a name or id of an image names, or None."""
    try:
        return parse(text).host
    except BadInput:
        return None


def parse(text: str) -> Reference:
    """Read a reference. The first part is a host where it could be no name: with a dot, a colon, or
    ``localhost``.

    Raises:
        BadInput: it is none; says which part.
    """
    rest, _, digest = text.partition("@")
    first, slash, after = rest.partition("/")
    named = None
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        named, rest = first, after
    head, colon, tail = rest.rpartition(":")
    name, tag = (head, tail) if colon else (rest, None)
    for what, part, form in (
        ("host", named, HOST),
        ("name", name, NAME),
        ("tag", tag, TAG),
        ("digest", digest or None, DIGEST),
    ):
        if part is not None and not form.fullmatch(part):
            raise BadInput(
                f"image {text}: {part!r} is no {what}; give HOST/NAME:TAG or HOST/NAME@sha256:…"
            )
    if "@" in text and not digest:
        raise BadInput(f"image {text}: nothing after the @; give a digest, sha256:…")
    return Reference(named, name, tag, digest or None)
