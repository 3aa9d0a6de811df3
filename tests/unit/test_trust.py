"""Which certificates the build is given: of variables, else of the system's store; and no key."""

import base64
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as some

from splatgate.container import build, trust
from splatgate.container.engine import EngineError


def certificate(name):
    """A certificate of its own and its key, both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime(2026, 1, 1)
    made = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return (
        made.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
    )


@pytest.fixture(scope="module")
def pems():
    """Three certificates."""
    return [certificate(name)[0] for name in "abc"]


@pytest.mark.parametrize("name", trust.VARIABLES)
def test_each_usual_variable_names_a_bundle(tmp_path, pems, name):
    (tmp_path / "ca.pem").write_text(pems[0])
    found = trust.machine({name: str(tmp_path / "ca.pem")}, [])
    assert found.pem == pems[0]
    assert found.said == f"the certificates of {tmp_path / 'ca.pem'} ({name}): 1"


def test_two_bundles_are_both_trusted_and_nothing_twice(tmp_path, pems):
    (tmp_path / "one").write_text(pems[0] + pems[1])
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "c.pem").write_text(pems[1] + pems[2])
    env = {"SSL_CERT_FILE": str(tmp_path / "one"), "REQUESTS_CA_BUNDLE": str(tmp_path / "two")}
    assert trust.machine(env, []).pem == "".join(pems)


def test_without_a_variable_what_the_administrator_added_is_trusted(tmp_path, pems):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.crt").write_text(pems[0])
    (tmp_path / "deep" / "b.crt").write_bytes(base64.b64decode("".join(pems[1].split("\n")[1:-2])))
    found = trust.machine({}, [str(tmp_path / "none"), str(tmp_path)])
    assert sorted(found.pem.split("\n\n")) == sorted("".join(pems[:2]).split("\n\n"))
    assert found.said == f"the certificates of what its administrator added ({tmp_path}): 2"


@pytest.mark.parametrize("text", [None, "", "-----BEGIN CERTIFICATE-----\n"])
def test_a_variable_that_names_no_certificate_is_told_and_passed_over(tmp_path, pems, text):
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "a.crt").write_text(pems[0])
    if text is not None:
        (tmp_path / "ca.pem").write_text(text)
    found = trust.machine({"PIP_CERT": str(tmp_path / "ca.pem")}, [str(tmp_path / "added")])
    assert found.pem == pems[0]
    assert f"PIP_CERT names {tmp_path / 'ca.pem'}, which holds no certificate" in found.said


def test_a_machine_with_nothing_of_its_own_says_so(tmp_path):
    assert trust.machine({}, [str(tmp_path)]) == trust.Trust("", "public certificates only")


@given(some.binary(max_size=400))
def test_whatever_else_a_file_holds_is_left_there(data):
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
    assert trust._certificates(b"#" + data + b"\n" + pem.encode() + b"\n" + data)[-1:] == [pem] or (
        b"CERTIFICATE" in data
    )


def test_a_private_key_beside_its_certificate_stays_where_it_is(tmp_path):
    pem, key = certificate("both")
    (tmp_path / "both.pem").write_text(key + pem)
    assert trust.read(tmp_path / "both.pem") == [pem.strip()]


def test_certificates_that_are_given_win_and_are_certificates(tmp_path, pems):
    (tmp_path / "ca.pem").write_text(pems[0])
    given_ca = build._trust(build.Options(extra_ca=tmp_path / "ca.pem"))
    assert given_ca == trust.Trust(pems[0], "the certificates of EXTRA_CA: 1")
    with pytest.raises(EngineError, match="holds no certificate"):
        build._trust(build.Options(extra_ca=tmp_path / "none"))
