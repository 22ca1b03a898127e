"""TLS in front of a server that was built without it, as the wheel's Valkey is."""

import socket
import ssl
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from servers.certificates import Certificate


class TlsDoor:
    """Speaks TLS with those who come, and plainly with the server on a port of this machine."""

    def __init__(self, certificate: Certificate, port: int) -> None:
        self._context = certificate.server_context()
        self._behind = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @classmethod
    def before(cls, url: str, certificate: Certificate) -> Self:
        """In front of the server that a URL names."""
        port = urlsplit(url).port
        assert port
        return cls(certificate, port)

    def url(self, url: str) -> str:
        """The same URL with TLS, through this door."""
        address = urlsplit(url)
        login, at, _ = address.netloc.rpartition("@")
        return address._replace(scheme=f"{address.scheme}s", netloc=f"{login}{at}localhost:{self.port}").geturl()

    def show(self, certificate: Certificate) -> None:
        """Another certificate, to those who come from now on."""
        self._context = certificate.server_context()

    def close(self) -> None:
        """Nobody comes in any more; who is inside stays."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._let_in, args=(plain, self._context), daemon=True).start()

    def _let_in(self, plain: socket.socket, context: ssl.SSLContext) -> None:
        with suppress(OSError), plain:
            inside = context.wrap_socket(plain, server_side=True)
            server = socket.create_connection(("127.0.0.1", self._behind))
            reader = threading.Thread(target=_pass_on, args=(server, inside), daemon=True)
            reader.start()
            _pass_on(inside, server)
            reader.join()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Until one of the two is gone; then so is the other."""
    with suppress(OSError), source, sink:
        while data := source.recv(65_536):
            sink.sendall(data)
