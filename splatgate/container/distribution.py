"""A repository of any registry, over the distribution API (github.com/distribution/distribution,
"HTTP API V2").
"""

from __future__ import annotations

import base64
import hashlib
import json
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
#: One answer takes no longer, seconds.
ANSWER = 20.0
#: The API has no way from a digest to its tags: each is asked for, and no more than these.
TAGS = 200
#: Bytes of a blob that are held at a time.
CHUNK = 1 << 20
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


class _Blob:
    """A blob on its way: of known length, since not every registry takes a body in chunks."""

    def __init__(self, answer: requests.Response, size: int) -> None:
        self.answer, self.size = answer, size
        self.hash = hashlib.sha256()

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.answer.iter_content(CHUNK):
            self.hash.update(chunk)
            yield chunk


class Distribution:
    """A repository over the distribution API, with the user's own docker login or the one given."""

    def __init__(self, where: Reference, login: dict[str, str] | None = None) -> None:
        self.where = where
        self.login = login
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
        found = source._send("GET", f"blobs/{digest}", stream=True)
        source._good(found)
        blob = _Blob(found, size)
        kind = {"Content-Type": "application/octet-stream"}
        sent = self._send("PATCH", begun.headers["Location"], kind, blob)
        self._good(sent)
        if f"sha256:{blob.hash.hexdigest()}" != digest:
            raise RegistryError(f"{source.where.repository}: serves another blob than {digest}")
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
        mend = f"docker login {self.where.host or HUB}" if answer.status_code in (401, 403) else ""
        mend = mend or "look at the registry"
        raise RegistryError(f"{self.where.repository}: {answer.status_code} {text}; {mend}")

    def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        data: bytes | _Blob | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """Send a request; when the registry asks who is there, answer once and send it again.

        ``path`` is below the repository, or a whole URL that the registry gave.
        """
        answer = self._once(method, path, headers, data, stream)
        if answer.status_code == 401:
            self.authorization = self._authorize(answer.headers.get("WWW-Authenticate", ""))
            if self.authorization:
                answer = self._once(method, path, headers, data, stream)
        return answer

    def _once(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None,
        data: bytes | _Blob | None,
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
                f"docker login {self.where.host or HUB}"
            ) from None


def _with(header: str | None) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if header:
            request.headers["Authorization"] = header
        return request

    return sign


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
