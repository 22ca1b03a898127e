"""A RabbitMQ server of our own (from the system's package rabbitmq-server), in one folder, on loopback ports."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL

import pika
import pika.exceptions

from gnomon.embedded.ports import LOOPBACK, free_port, port_is_free
from gnomon.embedded.processes import (
    Child,
    Server,
    ServerFailed,
    kill_child,
    start_child,
    stop_child,
    wait_until_ready,
)
from gnomon.job.errors import ConfigurationError

_USER = "gnomon"
_CONFIGURATION = """\
listeners.tcp.local = {host}:{port}
default_user = {user}
default_pass = {password}
log.file = false
log.console = true
log.console.level = warning
disk_free_limit.absolute = 1MB
"""
_ANSWER_SECONDS = 20
_PLACES = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")


class RabbitMQ(Server):
    """RabbitMQ below `data_dir`, no plugins, with a port mapper (epmd) that only it uses. Ready in about 6 seconds.

    Its Erlang shell stays open on stdin: `evaluate` administers it in milliseconds where rabbitmqctl takes seconds, and
    the server ends when this process does.
    """

    def __init__(self, data_dir: Path, *, port: int | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port or free_port()
        self._password = secrets.token_hex(12)
        self._distribution_port = free_port()
        self._port_mapper_port = free_port()
        self._log = self.data_dir / "rabbitmq.log"
        self._port_mapper: Child | None = None
        self._server: Child | None = None

    @property
    def url(self) -> str:
        """amqp:// with user and password; the vhost `/`."""
        return self.url_of("%2F")

    def url_of(self, vhost: str) -> str:
        """The URL of another vhost, whose name must need no quoting."""
        return f"amqp://{_USER}:{self._password}@{LOOPBACK}:{self.port}/{vhost}"

    @property
    def pid(self) -> int | None:
        """The server, while it runs."""
        return self._server.pid if self._server and self._server.poll() is None else None

    def start(self) -> None:
        """Start the server and return when it answers. Nothing when it already runs.

        Raises ConfigurationError when RabbitMQ is not installed, ServerFailed when it does not come up.
        """
        if self.pid:
            return
        self._drop_server(stop_child)
        program = _find_server()
        self._write_configuration()
        self._start_port_mapper()
        self._server = start_child(
            [str(program)], log=self._log, env=self._environment(), stdin=subprocess.PIPE, when_orphaned=SIGKILL
        )
        wait_until_ready(self._server, self._answers, name="RabbitMQ", log=self._log, deadline_seconds=90)

    def stop(self) -> None:
        """Orderly end of the server and its port mapper."""
        self._drop_server(stop_child)
        if self._port_mapper is not None:
            stop_child(self._port_mapper)
            self._port_mapper = None

    def kill(self) -> None:
        """SIGKILL; durable queues and persistent messages that were confirmed survive."""
        self._drop_server(kill_child)

    def restart(self) -> None:
        """Stop and start on the same port, with the same user."""
        self._drop_server(stop_child)
        self.start()

    def add_vhost(self, name: str) -> str:
        """Make a vhost and return its URL."""
        self.evaluate(f'rabbit_vhost:add(<<"{name}">>, <<"{_USER}">>)')
        grant = f'<<"{_USER}">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"{_USER}">>'
        self.evaluate(f"rabbit_auth_backend_internal:set_permissions({grant})")
        return self.url_of(name)

    def delete_vhost(self, name: str) -> None:
        """Delete a vhost with its queues; its connections are closed."""
        self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"{_USER}">>)')

    def evaluate(self, expression: str) -> str:
        """The value of an Erlang expression inside the server, as Erlang prints it. Raises ServerFailed."""
        if self._server is None or self._server.stdin is None:
            raise ServerFailed("RabbitMQ does not run")
        answer, unfinished = self.data_dir / "answer", self.data_dir / "answer.unfinished"
        answer.unlink(missing_ok=True)
        wanted = f'file:write_file("{unfinished}", io_lib:format("~0p", [catch begin {expression} end]))'
        self._server.stdin.write(f'{wanted}, file:rename("{unfinished}", "{answer}").\n'.encode())
        self._server.stdin.flush()
        wait_until_ready(
            self._server,
            answer.exists,
            name=f"RabbitMQ's {expression}",
            log=self._log,
            deadline_seconds=_ANSWER_SECONDS,
        )
        value = answer.read_text()
        if value.startswith(("{'EXIT'", "{error")):
            raise ServerFailed(f"RabbitMQ: {expression} gave {value}")
        return value

    def _drop_server(self, end: Callable[[Child], None]) -> None:
        if self._server is None:
            return
        end(self._server)
        if self._server.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._server.stdin.close()
        self._server = None

    def _start_port_mapper(self) -> None:
        """In the foreground and only for us: the usual one is shared by the machine and outlives whoever started it."""
        if self._port_mapper is not None and self._port_mapper.poll() is None:
            return
        log = self.data_dir / "epmd.log"
        command = ["epmd", "-port", str(self._port_mapper_port), "-address", LOOPBACK]
        self._port_mapper = start_child(command, log=log, when_orphaned=SIGKILL)
        wait_until_ready(self._port_mapper, self._port_mapper_listens, name="epmd", log=log)

    def _port_mapper_listens(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self._port_mapper_port), timeout=1).close()
        except OSError:
            return False
        return True

    def _write_configuration(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        values = {"host": LOOPBACK, "port": self.port, "user": _USER, "password": self._password}
        (self.data_dir / "rabbitmq.conf").write_text(_CONFIGURATION.format(**values))
        (self.data_dir / "enabled_plugins").write_text("[].")

    def _environment(self) -> dict[str, str]:
        foreign = ("RABBITMQ_", "ERL_")
        return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
            "HOME": str(self.data_dir),  # for .erlang.cookie
            "ERL_EPMD_PORT": str(self._port_mapper_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_CONF_ENV_FILE": str(self.data_dir / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.data_dir / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.data_dir / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.data_dir / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.data_dir / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.data_dir / "log"),
            "RABBITMQ_NODENAME": "gnomon@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
        }

    def _answers(self) -> bool:
        if port_is_free(self.port):
            return False  # pika leaves the socket of a refused connection open
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True


def is_installed() -> bool:
    """Whether this machine has what it takes to start one."""
    try:
        _find_server()
    except ConfigurationError:
        return False
    return True


def _find_server() -> Path:
    """The plain start script: what PATH has on Debian is a wrapper that changes user."""
    for place in _PLACES:
        if found := shutil.which(place):
            if shutil.which("epmd") is None:
                break
            return Path(found)
    raise ConfigurationError(
        "RabbitMQ is not installed here (rabbitmq-server and epmd); as root scripts/test installs it"
    )
