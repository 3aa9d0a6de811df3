"""Attestations: in-toto Statement v1 with the test-result predicate, in a DSSE envelope.

Sources: in-toto/attestation ``spec/v1/statement.md`` and ``spec/predicates/test-result.md``;
secure-systems-lab/dsse ``protocol.md``. The envelope is a dozen lines over ``cryptography``, so
that the libraries of the specifications' own authors can check it in the tests.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from splatgate.evidence import BadInput

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
PAYLOAD = "application/vnd.in-toto+json"


class BadSignature(Exception):
    """An envelope that is none, or was not signed by the key given."""


@dataclass(frozen=True)
class Public:
    """A public key; ``id`` is the sha256 of its DER form (SubjectPublicKeyInfo)."""

    key: Ed25519PublicKey | EllipticCurvePublicKey
    id: str

    @classmethod
    def of(cls, key: Ed25519PublicKey | EllipticCurvePublicKey) -> Public:
        """A key with its id."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return cls(
            key, hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()
        )


def private_key(path: Path) -> Ed25519PrivateKey | EllipticCurvePrivateKey:
    """An unencrypted private key from a PEM file.

    Raises:
        BadInput: no such file, or no Ed25519 or ECDSA key in it.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        how = f"make one: openssl genpkey -algorithm ed25519 -out {path.name}"
        raise BadInput(f"{path}: no private key ({error}); {how}") from None
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise BadInput(f"{path}: neither an Ed25519 nor an ECDSA key")
    return key


def public_key(path: Path) -> Public:
    """A public key from a PEM file, which may hold the private one.

    Raises:
        BadInput: no such file, or no Ed25519 or ECDSA key in it.
    """
    try:
        data = path.read_bytes()
        if b"PRIVATE KEY" in data:
            return Public.of(private_key(path).public_key())
        key = serialization.load_pem_public_key(data)
    except (OSError, ValueError) as error:
        how = "write it with: openssl pkey -in KEY -pubout"
        raise BadInput(f"{path}: no public key ({error}); {how}") from None
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey):
        raise BadInput(f"{path}: neither an Ed25519 nor an ECDSA key")
    return Public.of(key)


def predicate(
    passed: Sequence[str],
    warned: Sequence[str],
    failed: Sequence[str],
    configuration: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """A test-result predicate. It has no word for *not verified*: what is missing has failed.

    ``configuration`` are resource descriptors of what the result rests on.
    """
    return {
        "result": "FAILED" if failed else "WARNED" if warned else "PASSED",
        "configuration": list(configuration),
        "passedTests": sorted(passed),
        "warnedTests": sorted(warned),
        "failedTests": sorted(failed),
    }


def statement(name: str, sha256: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """A statement about one subject, known by its sha256 (hexadecimal)."""
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sha256}}],
        "predicateType": PREDICATE,
        "predicate": dict(predicate),
    }


def encoding(payload: bytes, kind: str = PAYLOAD) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def sign(statement: Mapping[str, Any], key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> bytes:
    """A DSSE envelope of a statement, as JSON."""
    payload = json.dumps(statement, sort_keys=True).encode()
    if isinstance(key, Ed25519PrivateKey):
        signature = key.sign(encoding(payload))
    else:
        signature = key.sign(encoding(payload), ECDSA(hashes.SHA256()))
    envelope = {
        "payloadType": PAYLOAD,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": Public.of(key.public_key()).id,
                "sig": base64.b64encode(signature).decode(),
            }
        ],
    }
    return json.dumps(envelope).encode() + b"\n"


def verify(envelope: bytes, public: Public) -> dict[str, Any]:
    """The statement of an envelope that ``public`` signed.

    Raises:
        BadSignature: it is no envelope of a test result, or the signature does not hold.
    """
    kind, payload, signatures = _opened(envelope)
    if not any(_holds(public, signature, encoding(payload, kind)) for signature in signatures):
        raise BadSignature(f"not signed by key {public.id}")
    return _statement(kind, payload)


def unverified(envelope: bytes) -> dict[str, Any]:
    """The statement of an envelope, whoever signed it.

    Raises:
        BadSignature: it is no envelope of a test result.
    """
    kind, payload, _ = _opened(envelope)
    return _statement(kind, payload)


def _opened(envelope: bytes) -> tuple[str, bytes, list[bytes]]:
    try:
        parsed = json.loads(envelope)
        payload = base64.b64decode(parsed["payload"], validate=True)
        signatures = [base64.b64decode(s["sig"], validate=True) for s in parsed["signatures"]]
        return str(parsed["payloadType"]), payload, signatures
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
        raise BadSignature("not a DSSE envelope") from None


def _statement(kind: str, payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        found = None
    if (
        kind != PAYLOAD
        or not isinstance(found, dict)
        or found.get("_type") != STATEMENT
        or found.get("predicateType") != PREDICATE
    ):
        raise BadSignature("signed, but no in-toto statement of a test result")
    return found


def _holds(public: Public, signature: bytes, message: bytes) -> bool:
    try:
        if isinstance(public.key, Ed25519PublicKey):
            public.key.verify(signature, message)
        else:
            public.key.verify(signature, message, ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
