"""Certificates and options of the stack: what is made, what is kept, what is refused."""

import datetime as dt
import ssl

import pytest
from clave.failures import EnvironmentFailure
from clave.stack import certificates
from clave.stack.certificates import ensure_certificate, names_of, own_certificate
from clave.stack.options import StackOptions
from cryptography import x509


def test_a_certificate_is_made_once_and_kept(tmp_path):
    first = ensure_certificate(tmp_path / "public", "edge", hosts=("localhost", "127.0.0.1"))
    content = first.certificate.read_bytes()
    second = ensure_certificate(tmp_path / "public", "edge", hosts=("localhost",))
    assert second.certificate.read_bytes() == content
    assert set(names_of(first.certificate)) == {"localhost", "127.0.0.1"}
    assert first.key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o700


def test_a_new_name_or_a_near_end_makes_a_new_one(tmp_path, monkeypatch):
    first = ensure_certificate(tmp_path / "public", "edge", hosts=("localhost",)).certificate.read_bytes()
    second = ensure_certificate(tmp_path / "public", "edge", hosts=("localhost", "clave.example"))
    assert second.certificate.read_bytes() != first
    monkeypatch.setattr(certificates, "_RENEW_DAYS", 400)
    renewed = ensure_certificate(tmp_path / "public", "edge", hosts=("localhost",))
    assert x509.load_pem_x509_certificate(renewed.certificate.read_bytes()).issuer
    assert set(names_of(renewed.certificate)) == {"localhost"}


def test_only_certificates_for_hops_serve_a_caller(tmp_path):
    def purposes(found):
        shown = x509.load_pem_x509_certificate(found.certificate.read_bytes())
        return set(shown.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)

    client = x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH
    assert client not in purposes(ensure_certificate(tmp_path / "public", "edge", hosts=("localhost",)))
    assert client in purposes(ensure_certificate(tmp_path / "services", "edge", hosts=("edge",), client=True))


def test_openssl_takes_the_pair_and_the_authority(tmp_path):
    made = ensure_certificate(tmp_path / "public", "edge", hosts=("localhost",))
    context = ssl.create_default_context(cafile=str(made.authority))
    context.load_cert_chain(made.certificate, made.key)


class TestOwnCertificate:
    def test_a_pair_is_taken(self, tmp_path):
        made = ensure_certificate(tmp_path / "a", "edge", hosts=("localhost",))
        own = own_certificate(made.certificate, made.key)
        assert own.authority is None

    def test_another_key_is_refused(self, tmp_path):
        one = ensure_certificate(tmp_path / "a", "edge", hosts=("localhost",))
        other = ensure_certificate(tmp_path / "b", "edge", hosts=("localhost",))
        with pytest.raises(EnvironmentFailure, match="not the key"):
            own_certificate(one.certificate, other.key)

    def test_a_missing_file_is_refused(self, tmp_path):
        with pytest.raises(EnvironmentFailure, match="cannot be read"):
            own_certificate(tmp_path / "none.pem", tmp_path / "none.key")

    def test_one_that_ended_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(certificates, "_CERTIFICATE_DAYS", -1)
        monkeypatch.setattr(certificates, "_CLOCK_SKEW", dt.timedelta(days=2))
        old = ensure_certificate(tmp_path / "a", "edge", hosts=("localhost",))
        with pytest.raises(EnvironmentFailure, match="ended on"):
            own_certificate(old.certificate, old.key)


class TestOptions:
    def named(self, options=None, **named):
        return (options or StackOptions()).changed(
            **{"tls": None, "tls_cert": None, "tls_key": None, "mutual_tls": None, **named}
        )

    def test_what_is_not_named_stays(self):
        options = StackOptions(tls=True, mutual_tls=True)
        assert self.named(options) == options

    def test_an_own_certificate_brings_tls(self, tmp_path):
        options = self.named(tls_cert=tmp_path / "a.pem", tls_key=tmp_path / "a.key")
        assert options.tls
        assert options.tls_cert == str(tmp_path / "a.pem")
        assert not self.named(options, tls=False).tls

    def test_half_a_pair_is_refused(self, tmp_path):
        with pytest.raises(EnvironmentFailure):
            self.named(tls_cert=tmp_path / "a.pem")
        with pytest.raises(EnvironmentFailure):
            self.named(tls=False, tls_cert=tmp_path / "a.pem", tls_key=tmp_path / "a.key")
