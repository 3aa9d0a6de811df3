"""Where sign-offs are kept: a folder, or a prefix of an S3 bucket. One stands for each digest::

    sha256-HEX.json            the sign-off: the last that released it, else the latest
    sha256-HEX.intoto.json     its attestation, where it was signed
    sha256-HEX.html            its page
    sha256-HEX.TIME.json …     the others of that digest

Nothing is lost, and no later look at a released image takes the place of its release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from splatgate.container.reference import DIGEST
from splatgate.evidence import BadInput, from_json, write_bytes
from splatgate.signoff import attest
from splatgate.signoff.document import Signoff

#: In place of a digest, where evidence names no image.
NONE = "none"
#: Files of a sign-off, by their endings.
ENDINGS = ("json", "intoto.json", "html")


class Place(Protocol):
    """Files by name."""

    def read(self, name: str) -> bytes | None:
        """A file, or None."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""

    def remove(self, name: str) -> None:
        """Remove a file that is there."""

    def names(self) -> list[str]:
        """All names."""


class Folder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes | None:
        """A file, or None."""
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            BadInput: it cannot be written.
        """
        write_bytes(self.path / name, data)

    def remove(self, name: str) -> None:
        """Remove a file that is there.

        Raises:
            BadInput: it cannot be removed.
        """
        try:
            (self.path / name).unlink()
        except OSError as error:
            raise BadInput(f"store {self.path}: {error.strerror}; give --store DIR") from None

    def names(self) -> list[str]:
        """All names."""
        return sorted(p.name for p in self.path.glob("*")) if self.path.is_dir() else []


class Bucket:
    """A prefix of an S3 bucket, with the user's own AWS credentials."""

    def __init__(self, url: str) -> None:
        import boto3

        self.url = url
        self.bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self.prefix = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        with self._told():
            self.api = boto3.client("s3")

    def read(self, name: str) -> bytes | None:
        """A file, or None."""
        with self._told():
            try:
                found = self.api.get_object(Bucket=self.bucket, Key=self.prefix + name)
            except self.api.exceptions.NoSuchKey:
                return None
            data: bytes = found["Body"].read()
            return data

    def write(self, name: str, data: bytes) -> None:
        """Write a file; S3 does so whole or not at all."""
        kind = "text/html; charset=utf-8" if name.endswith(".html") else "application/json"
        with self._told():
            self.api.put_object(
                Bucket=self.bucket, Key=self.prefix + name, Body=data, ContentType=kind
            )

    def remove(self, name: str) -> None:
        """Remove a file that is there."""
        with self._told():
            self.api.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def names(self) -> list[str]:
        """All names."""
        with self._told():
            pages = self.api.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix
            )
            keys = [o["Key"] for page in pages for o in page.get("Contents", ())]
        return sorted(key.removeprefix(self.prefix) for key in keys)

    @contextmanager
    def _told(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            text = " ".join(str(error).split())[:200]
            raise BadInput(f"store {self.url}: {text}; check bucket and credentials") from None


class Store:
    """Sign-offs by digest."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.place: Place = Bucket(where) if where.startswith("s3://") else Folder(Path(where))

    @staticmethod
    def key(digest: str) -> str:
        """The name of a digest's files, without ending.

        Raises:
            BadInput: it is no digest, and might name a file elsewhere.
        """
        if digest != NONE and not DIGEST.fullmatch(digest):
            raise BadInput(f"{digest!r} is no digest; give sha256: and 64 digits")
        return digest.replace(":", "-")

    def get(self, digest: str) -> Signoff | None:
        """The sign-off of a digest, or None.

        Raises:
            BadInput: it is damaged.
        """
        return self._read(f"{self.key(digest)}.json")

    def _read(self, name: str) -> Signoff | None:
        data = self.place.read(name)
        return None if data is None else from_json(data, Signoff, f"{self.where}/{name}")

    def file(self, digest: str, ending: str) -> bytes | None:
        """A file of a digest: ``json``, ``intoto.json`` or ``html``."""
        return self.place.read(f"{self.key(digest)}.{ending}")

    def verified(self, digest: str, public: attest.Public) -> dict[str, Any]:
        """The signed statement of a digest's sign-off.

        Raises:
            BadInput: there is no signed sign-off.
            BadSignature: ``public`` did not sign it, or it is about something else.
        """
        envelope, document = (self.file(digest, ending) for ending in ("intoto.json", "json"))
        if envelope is None or document is None:
            raise BadInput(f"{digest}: no signed sign-off in {self.where}; give --store")
        statement = attest.verify(envelope, public)
        subjects = {s["digest"].get("sha256") for s in statement["subject"]}
        rests_on = {d["digest"]["sha256"] for d in statement["predicate"]["configuration"]}
        if digest.removeprefix("sha256:") not in subjects:
            raise attest.BadSignature(f"the statement is about {subjects}")
        if hashlib.sha256(document).hexdigest() not in rests_on:
            raise attest.BadSignature("the sign-off beside it is not the one signed")
        return statement

    def put(self, digest: str, signoff: Signoff, files: dict[str, bytes]) -> None:
        """Keep the files of a sign-off by their endings."""
        name, standing = self.key(digest), self.get(digest)
        if standing is not None and standing.created != signoff.created:
            if standing.released and not signoff.released:
                name = f"{name}.{_stamp(signoff)}"
            else:
                for ending in ENDINGS:
                    if (data := self.file(digest, ending)) is not None:
                        self.place.write(f"{name}.{_stamp(standing)}.{ending}", data)
                        # One that is not signed does not stand beside the attestation of another.
                        if ending not in files:
                            self.place.remove(f"{name}.{ending}")
        for ending, data in files.items():
            self.place.write(f"{name}.{ending}", data)

    def later(self, digest: str, than: Signoff) -> list[Signoff]:
        """The sign-offs of a digest that were made after one of them, the earliest first."""
        same = [s for s in self.every() if digest in (s.manifest_digest, s.image.image_id)]
        return [s for s in reversed(same) if s.created > than.created]

    def every(self) -> list[Signoff]:
        """All sign-offs, the latest first; what an older suite wrote and none reads is left out."""
        found = []
        for name in self.place.names():
            if name.endswith(".json") and not name.endswith(".intoto.json"):
                try:
                    signoff = self._read(name)
                except BadInput:
                    continue
                if signoff:
                    found.append(signoff)
        return sorted(found, key=lambda s: s.created, reverse=True)


def _stamp(signoff: Signoff) -> str:
    """Its time, as part of a name."""
    return "".join(c for c in signoff.created.partition("+")[0] if c.isalnum())
