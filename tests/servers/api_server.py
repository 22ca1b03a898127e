"""The API behind its web server, in a process of its own.

Run as a program it is the server; `ApiServer` starts one.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from support.cluster import wait_until

from gnomon.embedded.ports import free_port

_UNDER_WAY = "a slow request is under way"
READ, WRITE, IDLE, SHUTDOWN = 1.0, 1.0, 1.5, 3.0  # seconds


class ApiServer:
    """Serves a database; `/slow?seconds=` answers late, `/large` with 64 MiB, `/parent` with whose child serves."""

    def __init__(self, database_url: str, folder: Path, *, threads: int = 4) -> None:
        self.port = free_port()
        self._log = folder / "log"
        arguments = [sys.executable, str(Path(__file__).resolve()), database_url, str(self.port), str(threads)]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(arguments, stderr=output, env=_environment())

    def __enter__(self) -> Self:
        try:
            wait_until("the API listens", self._answers, seconds=20)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=15)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait_for_slow_request(self) -> None:
        """Until one is under way."""
        wait_until("a slow request is under way", lambda: _UNDER_WAY in self.log())

    def wait(self) -> int:
        return self._process.wait(timeout=20)

    def log(self) -> str:
        return self._log.read_text()

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(self.log())
        try:
            self.connect().close()
        except OSError:
            return False
        return True


def _environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def _serve(database_url: str, port: int, threads: int) -> None:
    from flask import Flask, Response, request
    from support.world import World

    from gnomon.api.access import Access, Open, needs
    from gnomon.api.app import create_app
    from gnomon.api.keyring import Keyring
    from gnomon.api.server import serve
    from gnomon.storage.postgres.api_keys import PostgresKeyStore

    class _NoKeys(PostgresKeyStore):
        """Some of its databases have no tables."""

        def any_made(self) -> bool:
            return False

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")

    def make_app() -> Flask:
        world = World(database_url)
        app = create_app(
            service=world.service,
            creations=world.creations,
            imports=world.imports,
            repeats=world.repeats,
            overview=world.overview,
            history=world.history,
            instances=world.instances,
            catalog=world.catalog,
            trail=world.trail,
            access=Access(keyring=Keyring(_NoKeys(world.engine)), open_without_keys=True, names=["a"]),
            ready=lambda: None,
            version="1",
        )

        @app.get("/slow")
        @needs(Open.TO_ALL)
        def slow() -> str:
            logging.info(_UNDER_WAY)
            time.sleep(float(request.args["seconds"]))
            return "late"

        @app.get("/large")
        @needs(Open.TO_ALL)
        def large() -> Response:
            return Response(b"x" * 2**26)

        @app.get("/parent")
        @needs(Open.TO_ALL)
        def parent() -> str:
            return f"{os.getppid()}"

        return app

    serve(
        make_app,
        host="127.0.0.1",
        port=port,
        threads=threads,
        read_timeout=timedelta(seconds=READ),
        write_timeout=timedelta(seconds=WRITE),
        idle_timeout=timedelta(seconds=IDLE),
        shutdown_timeout=timedelta(seconds=SHUTDOWN),
    )


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
