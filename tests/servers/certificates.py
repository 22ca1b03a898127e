"""Certificates for tests, made on the spot with the openssl command: no private key lies in the repository."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gnomon.job.errors import ConfigurationError

LOOPBACK = "DNS:localhost,IP:127.0.0.1"
_CONFIGURATION = """\
[ca]
default_ca = authority
[authority]
dir = {folder}
database = $dir/index.txt
serial = $dir/serial
rand_serial = yes
new_certs_dir = $dir
certificate = $dir/ca.pem
private_key = $dir/ca-key.pem
default_md = sha256
policy = policy
copy_extensions = copy
unique_subject = no
x509_extensions = server
[policy]
commonName = supplied
[server]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
extendedKeyUsage = serverAuth
"""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate and its key; where it is self-signed, its file is also the bundle that trusts it."""

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """For a server that shows it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def self_signed(folder: Path, *, names: str = LOOPBACK) -> Certificate:
    """For these names (OpenSSL's notation), valid for a day. Raises ConfigurationError when there is no openssl."""
    made = Certificate(certificate=folder / "certificate.pem", key=folder / "key.pem")
    subject = ["-subj", "/CN=gnomon-test", "-addext", f"subjectAltName={names}"]
    _openssl("req", "-x509", "-days", "1", *_new_key(made.key), *subject, "-out", str(made.certificate))
    return made


class Authority:
    """One that signs what it is told to; `file` is what its clients trust."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.file = folder / "ca.pem"
        (folder / "index.txt").touch()
        (folder / "ca.cnf").write_text(_CONFIGURATION.format(folder=folder))
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        subject = ["-subj", "/CN=gnomon-test-authority", *usage]
        _openssl("req", "-x509", "-days", "2", *_new_key(folder / "ca-key.pem"), *subject, "-out", str(self.file))

    def issue(
        self, name: str, *, names: str = LOOPBACK, since: timedelta = timedelta(days=-1), days: int = 2
    ) -> Certificate:
        """A certificate for these names, valid for so many days from `since` on, which counts from now."""
        begin = datetime.now(UTC) + since
        request = self._folder / f"{name}.csr"
        made = Certificate(certificate=self._folder / f"{name}.pem", key=self._folder / f"{name}-key.pem")
        subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"]
        _openssl("req", *_new_key(made.key), *subject, "-out", str(request))
        times = ["-startdate", _written(begin), "-enddate", _written(begin + timedelta(days=days))]
        paths = ["-in", str(request), "-out", str(made.certificate)]
        _openssl("ca", "-config", str(self._folder / "ca.cnf"), "-batch", "-notext", *times, *paths)
        return made


def _written(moment: datetime) -> str:
    return f"{moment:%Y%m%d%H%M%S}Z"


def _new_key(path: Path) -> list[str]:
    return ["-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path)]


def _openssl(*arguments: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise ConfigurationError("the openssl command is not installed; install the package openssl")
    subprocess.run([program, *arguments], check=True, capture_output=True, timeout=60)
