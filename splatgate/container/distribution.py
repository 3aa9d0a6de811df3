"""A repository of any registry, over the distribution API (github.com/distribution/distribution,
"HTTP API V2").
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urljoin

import requests
import requests.utils

from splatgate.container.reference import HUB, Reference
from splatgate.evidence import BadInput

SCHEMA2 = "application/vnd.docker.distribution.manifest.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
#: Lists of manifests, one for each platform.
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ACCEPT = (SCHEMA2, OCI, *INDEXES)
#: Media types of an OCI image's parts, and of the same bytes in Docker's form (containerd,
#: images/mediatypes.go). zstd has none.
AS_SCHEMA2 = {
    "application/vnd.oci.image.config.v1+json": "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip": (
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    ),
}
#: One answer takes no longer, seconds.
ANSWER = 20.0
#: The API has no way from a digest to its tags: each is asked for, and no more than these.
TAGS = 200
#: Bytes of a blob read at once, and how often a broken connection is taken up again.
CHUNK, RESUMED = 1 << 20, 5
HUB_API = "registry-1.docker.io"
#: Docker's name for its hub among the user's logins.
HUB_LOGIN = "https://index.docker.io/v1/"


class RegistryError(BadInput):
    """A registry gave no answer, or another than was asked for. One line: what, where, how to mend
    it.
    """


@dataclass(frozen=True)
class Manifest:
    """A manifest as it is served, byte for byte."""

    data: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """What it is known by."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def document(self) -> dict[str, Any]:
        """Its JSON.

        Raises:
            RegistryError: it is none.
        """
        try:
            found = json.loads(self.data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RegistryError(f"the manifest {self.digest} is no JSON object; push it again")
        return found

    @property
    def image_id(self) -> str | None:
        """Digest of its configuration; an index has none."""
        digest = (self.document.get("config") or {}).get("digest")
        return str(digest) if digest else None

    def schema2(self) -> Manifest | None:
        """An OCI image's manifest in Docker's form: the same configuration and layers, by digest.

        None: it is no OCI image, or a part of it has no such form.
        """
        document = self.document
        parts = [document.get("config"), *(document.get("layers") or ())]
        if self.media_type != OCI or any(
            (p or {}).get("mediaType") not in AS_SCHEMA2 for p in parts
        ):
            return None
        config, *layers = (
            {"mediaType": AS_SCHEMA2[p["mediaType"]], "size": p["size"], "digest": p["digest"]}
            for p in parts
        )
        made = {"schemaVersion": 2, "mediaType": SCHEMA2, "config": config, "layers": layers}
        return Manifest(json.dumps(made, indent=3).encode(), SCHEMA2)


def checked(manifest: Manifest, reference: str, said: str | None, where: str) -> Manifest:
    """A manifest that is the one asked for, and the one that the registry says it is.

    Raises:
        RegistryError: it is not.
    """
    for claim in (said, reference):
        if claim and claim.startswith("sha256:") and claim != manifest.digest:
            raise RegistryError(f"{where}: asked for {claim}, got {manifest.digest}; ask again")
    return manifest


def small(data: bytes, digest: str, where: str) -> bytes:
    """A blob that is the one asked for.

    Raises:
        RegistryError: it is another.
    """
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise RegistryError(f"{where}: serves another blob than {digest}; push the image again")
    return data


class Distribution:
    """A repository over the distribution API, with the user's own docker login or the one given."""

    def __init__(self, where: Reference, login: dict[str, str] | None = None) -> None:
        self.where, self.login = where, login
        self.host = HUB_API if where.host in (None, HUB) else str(where.host)
        alone = where.host in (None, HUB) and "/" not in where.name
        self.name = f"library/{where.name}" if alone else where.name
        self.session = requests.Session()
        # As docker does: a registry on this machine needs no TLS, and is reached by no proxy.
        self.session.trust_env = not where.loopback
        self.schemes = ("https", "http") if where.loopback else ("https",)
        self.authorization: str | None = None

    def manifest(self, reference: str) -> Manifest | None:
        """The manifest of a tag or digest, or None where there is none."""
        answer = self._send("GET", f"manifests/{reference}", {"Accept": ", ".join(ACCEPT)})
        if answer.status_code == 404:
            return None
        self._good(answer)
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        found = Manifest(answer.content, kind)
        said = answer.headers.get("Docker-Content-Digest")
        return checked(found, reference, said, f"{self.where.repository}:{reference}")

    def blob(self, digest: str) -> bytes:
        """A small blob, such as a configuration.

        Raises:
            RegistryError: it is not there, or is another.
        """
        answer = self._send("GET", f"blobs/{digest}")
        self._good(answer)
        return small(answer.content, digest, self.where.repository)

    def tags(self) -> tuple[dict[str, str], bool]:
        """The digest of each tag, and whether these are all tags."""
        names: list[str] = []
        path: str | None = f"tags/list?n={TAGS}"
        while path and len(names) <= TAGS:
            answer = self._send("GET", path)
            if answer.status_code == 404:
                break
            self._good(answer)
            names += answer.json().get("tags") or ()
            following = answer.links.get("next", {}).get("url", "")
            path = f"tags/list?{following.partition('?')[2]}" if following else None

        def digest(name: str) -> str | None:
            answer = self._send("HEAD", f"manifests/{name}", {"Accept": ", ".join(ACCEPT)})
            return answer.headers.get("Docker-Content-Digest") if answer.ok else None

        with ThreadPoolExecutor(8) as pool:
            found = zip(names, pool.map(digest, names[:TAGS]), strict=False)
            return {name: value for name, value in found if value}, len(names) <= TAGS

    def stream(self, digest: str, size: int) -> Iterator[bytes]:
        """A blob as it is read, checked at its end; a broken connection is resumed where it broke.

        Raises:
            RegistryError: it is another, longer, or breaks off again and again.
        """
        at, broken, seen = 0, 0, hashlib.sha256()
        while at < size:
            ranged = {"Range": f"bytes={at}-"} if at else {}
            headers = {"Accept-Encoding": "identity", **ranged}
            with self._send("GET", f"blobs/{digest}", headers, stream=True) as answer:
                self._good(answer)
                # A registry without ranges begins anew.
                skip = 0 if answer.status_code == 206 else at
                try:
                    for chunk in answer.iter_content(CHUNK):
                        part, skip = chunk[skip:], max(0, skip - len(chunk))
                        at += len(part)
                        if at > size:
                            raise RegistryError(
                                f"{self.where.repository}: {digest} is longer than "
                                f"its manifest says; push it again"
                            )
                        seen.update(part)
                        yield part
                    problem = "it ended early"
                except requests.RequestException as error:
                    problem = " ".join(str(error).split())[:160]
            broken += at < size
            if broken > RESUMED:
                raise RegistryError(
                    f"{self.where.repository}: {digest} breaks off at byte {at}: {problem}; "
                    "look at the network"
                )
        if f"sha256:{seen.hexdigest()}" != digest:
            raise RegistryError(f"{self.where.repository}: {digest} is another; push it again")

    def put(self, manifest: Manifest, tag: str) -> None:
        """Store a manifest under a tag."""
        kind = {"Content-Type": manifest.media_type}
        self._good(self._send("PUT", f"manifests/{tag}", kind, manifest.data))

    def take(self, digest: str, size: int, source: Distribution) -> None:
        """Have a blob of another repository, of ``size`` bytes: mounted where one registry holds
        both, else sent through this machine.

        Raises:
            RegistryError: a registry refuses, or the source serves another blob.
        """
        if self._send("HEAD", f"blobs/{digest}").ok:
            return
        mount = f"?mount={digest}&from={source.name}" if source.host == self.host else ""
        begun = self._send("POST", f"blobs/uploads/{mount}")
        self._good(begun)
        if begun.status_code == 201:
            return
        kind = {"Content-Type": "application/octet-stream"}
        sent = self._send("PATCH", begun.headers["Location"], kind, _Blob(source, digest, size))
        self._good(sent)
        end = sent.headers["Location"]
        self._good(self._send("PUT", f"{end}{'&' if '?' in end else '?'}digest={digest}"))

    def mutable(self, tag: str) -> bool | None:
        """None: the API does not say."""
        return None

    def pushed(self, digest: str) -> datetime | None:
        """None: the API does not say."""
        return None

    def _good(self, answer: requests.Response) -> None:
        if answer.ok:
            return
        try:
            first = answer.json()["errors"][0]
            text = f"{first.get('code')}: {first.get('message')}"
        except (ValueError, LookupError, AttributeError, TypeError):
            text = answer.reason or "no reason"
        said = f"{answer.status_code} {text}"
        raise RegistryError(f"{self.where.repository}: {said}; {remedy(said, self.where.host)}")

    def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        data: bytes | _Blob | None = None,
        *,
        stream: bool = False,
    ) -> requests.Response:
        """Send a request; when the registry asks who is there, answer once and send it again.

        ``path`` is below the repository, or a whole URL that the registry gave.
        """
        answer = self._once(method, path, headers, data, stream=stream)
        if answer.status_code == 401:
            self.authorization = self._authorize(answer.headers.get("WWW-Authenticate", ""))
            if self.authorization:
                answer = self._once(method, path, headers, data, stream=stream)
        return answer

    def _once(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None,
        data: bytes | _Blob | None,
        *,
        stream: bool,
    ) -> requests.Response:
        def signed(request: requests.PreparedRequest) -> requests.PreparedRequest:
            # Also keeps requests from answering with what ~/.netrc holds for the host.
            if self.authorization:
                request.headers["Authorization"] = self.authorization
            return request

        for scheme in self.schemes:
            url = urljoin(f"{scheme}://{self.host}/v2/{self.name}/", path)
            try:
                answer = self.session.request(
                    method,
                    url,
                    headers=headers,
                    data=data,
                    auth=signed,
                    timeout=ANSWER,
                    stream=stream,
                )
            except requests.RequestException as error:
                problem = error
                continue
            self.schemes = (scheme,)
            return answer
        # The cause stands last, in the shells of two libraries.
        text = " ".join(str(problem).split()).rpartition(": ")[2].rstrip("'\")")
        raise RegistryError(f"{self.host}: does not answer: {text[:160]}; check host and network")

    def _authorize(self, challenge: str) -> str | None:
        """The Authorization header that answers a challenge, or None: there is no login."""
        login = self.login or credentials(self.where.host)
        basic = None
        if login.get("username"):
            text = f"{login['username']}:{login.get('password', '')}"
            basic = "Basic " + base64.b64encode(text.encode()).decode()
        kind, _, rest = challenge.partition(" ")
        if kind.lower() != "bearer":
            return basic
        asked = requests.utils.parse_dict_header(rest)  # type: ignore[no-untyped-call]
        ask = {key: asked[key] for key in ("service", "scope") if asked.get(key)}
        try:
            if refresh := login.get("identitytoken"):
                form = {**ask, "grant_type": "refresh_token", "refresh_token": refresh}
                form["client_id"] = "splatgate"
                answer = self.session.post(asked["realm"], data=form, timeout=ANSWER)
            else:
                answer = self.session.get(
                    asked["realm"],
                    params=ask,
                    auth=_with(basic),
                    timeout=ANSWER,
                )
            answer.raise_for_status()
            token = answer.json()
            return f"Bearer {token.get('token') or token['access_token']}"
        except (requests.RequestException, KeyError, ValueError, AttributeError) as error:
            text = " ".join(str(error).split())[:160]
            raise RegistryError(
                f"{self.where.repository}: no token from {asked.get('realm')}: {text}; "
                f"{remedy(text, self.where.host)}"
            ) from None


#: In the words of registries and engines: who asks is not known, or may not; nobody was reached.
_UNKNOWN = re.compile(
    r"(?i)\b40[13]\b|denied|unauthori[sz]ed|authenticat|authori[sz]ation|credential"
)
_UNREACHED = re.compile(
    r"(?i)refused|no such host|tim(ed|e) ?out|unreachable|resolv|connect|\bEOF\b"
)


def remedy(said: str, host: str | None) -> str:
    """What helps against a registry's refusal, or against getting no answer from it."""
    if _UNREACHED.search(said):
        return "check host and network"
    return f"docker login {host or HUB}" if _UNKNOWN.search(said) else "look at the registry"


def _with(header: str | None) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if header:
            request.headers["Authorization"] = header
        return request

    return sign


@dataclass(frozen=True)
class _Blob:
    """A blob on its way: of known length, since not every registry takes a body in chunks."""

    source: Distribution
    digest: str
    size: int

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        return self.source.stream(self.digest, self.size)


def credentials(host: str | None) -> dict[str, str]:
    """The user's login to a registry, as ``docker login`` keeps it; empty where there is none.

    Raises:
        RegistryError: docker's credential helper failed.
    """
    import docker.auth
    import docker.errors

    name = HUB_LOGIN if host in (None, HUB) else host
    try:
        found = docker.auth.load_config().resolve_authconfig(name)
    except docker.errors.DockerException as error:
        raise RegistryError(
            f"{host}: docker's login cannot be read: {error}; log in again"
        ) from None
    return {key.lower(): value for key, value in (found or {}).items() if value}
