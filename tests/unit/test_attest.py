"""Attestations: what the specifications say, checked by their authors' own libraries."""

import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from splatgate.evidence import BadInput
from splatgate.signoff import attest

KEYS = {
    "ed25519": Ed25519PrivateKey.generate(),
    "ecdsa": ec.generate_private_key(ec.SECP256R1()),
}
STATEMENT = attest.statement(
    "r.example/trainer",
    "d" * 64,
    attest.predicate(
        ["runtime.cuda"], [], ["production.ply"], [{"name": "policy", "digest": {"sha256": "0"}}]
    ),
)


def independent(envelope, key):
    """The statement of an envelope, verified and read by the specifications' own libraries."""
    public = SSlibKey.from_crypto(key.public_key(), attest.Public.of(key.public_key()).id)
    found = Envelope.from_dict(json.loads(envelope))
    found.verify([public], 1)
    parsed = json_format.Parse(found.payload, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    return found.payload_type, parsed


def test_the_encoding_is_the_specifications_own_example():
    """secure-systems-lab/dsse, protocol.md, "Test vectors"."""
    encoded = attest.encoding(b"hello world", "http://example.com/HelloWorld")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@pytest.mark.parametrize("kind", KEYS)
def test_what_is_signed_here_is_verified_by_securesystemslib_and_in_toto(kind):
    envelope = attest.sign(STATEMENT, KEYS[kind])
    payload_type, parsed = independent(envelope, KEYS[kind])
    assert payload_type == "application/vnd.in-toto+json"
    assert parsed.subject[0].digest["sha256"] == "d" * 64
    assert parsed.predicate_type == "https://in-toto.io/attestation/test-result/v0.1"
    assert json_format.MessageToDict(parsed.predicate)["result"] == "FAILED"
    with pytest.raises(VerificationError):
        independent(envelope, KEYS["ecdsa" if kind == "ed25519" else "ed25519"])


@pytest.mark.parametrize("kind", KEYS)
def test_what_securesystemslib_signs_is_verified_here(kind):
    from securesystemslib.signer import CryptoSigner

    key = KEYS[kind]
    envelope = Envelope(json.dumps(STATEMENT).encode(), attest.PAYLOAD, {})
    envelope.sign(CryptoSigner(key))
    said = json.dumps(envelope.to_dict()).encode()
    assert attest.verify(said, attest.Public.of(key.public_key())) == STATEMENT


@given(st.data())
def test_no_changed_byte_is_verified(data):
    key = KEYS["ed25519"]
    envelope = json.loads(attest.sign(STATEMENT, key))
    raw = bytearray(base64.b64decode(envelope["payload"]))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    envelope["payload"] = base64.b64encode(raw).decode()
    with pytest.raises(attest.BadSignature):
        attest.verify(json.dumps(envelope).encode(), attest.Public.of(key.public_key()))


@given(
    st.one_of(
        st.binary(),
        st.recursive(
            st.none() | st.text() | st.integers(),
            lambda x: (
                st.lists(x)
                | st.dictionaries(
                    st.sampled_from(["payload", "payloadType", "signatures", "sig"]), x
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_what_is_no_envelope_is_told_so(data):
    with pytest.raises(attest.BadSignature):
        attest.verify(data, attest.Public.of(KEYS["ed25519"].public_key()))


@pytest.mark.parametrize(
    ("passed", "warned", "failed", "result"),
    [(["a"], [], [], "PASSED"), (["a"], ["b"], [], "WARNED"), (["a"], ["b"], ["c"], "FAILED")],
    ids=["passed", "warned", "failed"],
)
def test_the_result_is_the_worst(passed, warned, failed, result):
    assert attest.predicate(passed, warned, failed, [])["result"] == result


def test_keys_of_other_kinds_are_refused_in_one_line(tmp_path):
    from cryptography.hazmat.primitives.asymmetric import rsa

    path = tmp_path / "key.pem"
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key = rsa.generate_private_key(65537, 2048)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    with pytest.raises(BadInput, match="neither an Ed25519 nor an ECDSA key"):
        attest.private_key(path)
    for read in (attest.private_key, attest.public_key):
        with pytest.raises(BadInput, match=r"no (private|public) key"):
            read(tmp_path / "none.pem")
