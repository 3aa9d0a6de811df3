"""The certificates that this machine trusts beside the public ones: behind a network that inspects
TLS, nothing can be fetched without them.
"""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Variables by which a machine names its bundle, for OpenSSL, requests, curl, pip and Node.
VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
)
#: Where an administrator adds certificates to the system's store: Debian, Ubuntu, Alpine and SUSE's
#: update-ca-certificates(8), Fedora's and Arch's update-ca-trust(8).
ADDED = (
    "/usr/local/share/ca-certificates",
    "/etc/pki/trust/anchors",
    "/etc/pki/ca-trust/source/anchors",
    "/etc/ca-certificates/trust-source/anchors",
)
#: The same on macOS.
KEYCHAIN = "/Library/Keychains/System.keychain"
_PEM = re.compile(
    r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", re.ASCII
)


@dataclass(frozen=True)
class Trust:
    """Certificates as PEM text (empty: none), and where they are from, in words for one line."""

    pem: str
    said: str


def machine(env: Mapping[str, str] | None = None, added: Iterable[str] = ADDED) -> Trust:
    """What this machine trusts: the bundles that the usual variables name, else what its
    administrator added to the system's store.

    Args:
        env: the variables; by default this process's.
        added: folders that an administrator puts certificates into.
    """
    env = os.environ if env is None else env
    named: dict[str, list[str]] = {}
    empty = []
    for name in VARIABLES:
        path = env.get(name)
        if path and path not in named and not read(Path(path)):
            empty.append(f"{name} names {path}, which holds no certificate")
        elif path:
            named.setdefault(path, []).append(name)
    if named:
        found = [pem for path in named for pem in read(Path(path))]
        said = ", ".join(f"{path} ({', '.join(names)})" for path, names in named.items())
    else:
        folders = [folder for folder in added if read(Path(folder))]
        found = [pem for folder in folders for pem in read(Path(folder))]
        said = f"what its administrator added ({', '.join(folders)})" if folders else ""
        if sys.platform == "darwin" and (chain := _keychain()):
            found, said = chain, f"what its administrator added ({KEYCHAIN})"
    found = list(dict.fromkeys(found))
    said = f"the certificates of {said}: {len(found)}" if found else "public certificates only"
    return Trust("".join(f"{pem}\n" for pem in found), "; ".join([said, *empty]))


def read(path: Path) -> list[str]:
    """The certificates in a file, or in the files below a folder, and nothing else that is there.

    DER, which some systems' folders may hold, is written as PEM.
    """
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        return [pem for file in files for pem in _certificates(file.read_bytes())]
    except OSError:
        return []


def _certificates(data: bytes) -> list[str]:
    # 0x30 0x82: a DER sequence with a length of two bytes, as any certificate is.
    if data[:2] == b"\x30\x82":
        return [ssl.DER_cert_to_PEM_cert(data).strip()]
    return _PEM.findall(data.decode("ascii", "replace"))


def _keychain() -> list[str]:
    try:
        done = subprocess.run(
            ["security", "find-certificate", "-a", "-p", KEYCHAIN],
            capture_output=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return _certificates(done.stdout)
