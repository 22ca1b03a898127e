"""Certificates for tests, made on the spot with the openssl command: no private key lies in the repository."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gnomon.job.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A self-signed certificate; its file is also the bundle that trusts it."""

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """For a server that shows it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def self_signed(folder: Path, *, names: str = "DNS:localhost,IP:127.0.0.1") -> Certificate:
    """For these names (OpenSSL's notation), valid for a day. Raises ConfigurationError when there is no openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ConfigurationError("the openssl command is not installed; install the package openssl")
    made = Certificate(certificate=folder / "certificate.pem", key=folder / "key.pem")
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
    ]
    command += ["-subj", "/CN=gnomon-test", "-addext", f"subjectAltName={names}"]
    command += ["-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return made
