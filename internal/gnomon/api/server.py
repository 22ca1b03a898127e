"""The web server: gunicorn, one process with threads."""

import gc
import logging
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from gnomon.api.connections import Limits, Worker


def serve(
    make_app: Callable[[], Flask],
    *,
    on_end: Callable[[], None] = lambda: None,
    host: str,
    port: int,
    threads: int = 8,
    read_timeout: timedelta = timedelta(seconds=5),
    write_timeout: timedelta = timedelta(seconds=10),
    idle_timeout: timedelta = timedelta(seconds=120),
    shutdown_timeout: timedelta = timedelta(seconds=20),
) -> None:
    """Serves until SIGTERM, which lets requests under way end within `shutdown_timeout`, or SIGINT, which does not.

    Ends with SystemExit. The worker is a child process, made again should it die; `make_app` is called in it, so this
    process must hold no threads and no connections; `on_end` too, when it ends in an orderly way. `shutdown_timeout`
    counts in whole seconds.
    """
    limits = Limits(
        read=read_timeout.total_seconds(), write=write_timeout.total_seconds(), idle=idle_timeout.total_seconds()
    )
    options = {
        "bind": [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"],
        "workers": 1,
        "threads": threads,
        "worker_class": type("LimitedWorker", (Worker,), {"limits": limits}),
        "logger_class": ProcessLogger,
        "worker_exit": lambda _arbiter, _worker: on_end(),
        "graceful_timeout": math.ceil(shutdown_timeout.total_seconds()),
        "keepalive": math.ceil(limits.idle),  # only whether it is 0 matters: see Connection.set_timeout
        "forwarder_headers": "",  # or a client on this machine may say by SCRIPT_NAME and PATH_INFO what its path is
        "sendfile": False,  # would go past the limit on sending
        "control_socket_disable": True,
    }
    # What is there by now stays, in both processes: the collector need not look at it, and so have it copied.
    gc.collect()
    gc.freeze()
    _Server(make_app, options).run()


class ProcessLogger(Logger):  # type: ignore[misc]
    """gunicorn's events go where the process logs; requests are not among them: see request_log.py."""

    def setup(self, cfg: Any) -> None:
        """Called by gunicorn instead of adding handlers of its own."""
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.setLevel(logging.NOTSET)


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, make_app: Callable[[], Flask], options: dict[str, Any]) -> None:
        self._make_app = make_app
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """In the worker."""
        return self._make_app()
