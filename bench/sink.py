"""An HTTP target that is not the limit: nginx, answering at once or after a time; its log tells what arrived."""

import contextlib
import http.client
import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from gnomon.embedded.ports import LOOPBACK, free_port
from gnomon.embedded.processes import Child, Server, start_child, stop_child, wait_until_ready
from gnomon.job.errors import ConfigurationError

_MODULES = [
    Path(folder, "ngx_http_echo_module.so") for folder in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules")
]
_LOG_SECONDS = 30
# One worker process: it takes several times what two cores' worth of clients can send, and its log has one order.
_CONFIGURATION = """\
load_module {module};
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 65536;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 32768; multi_accept on; }}
http {{
  log_format arrivals '$msec $request_time $uri $http_idempotency_key $http_x_scheduler_scheduled_at';
  access_log arrivals.log arrivals buffer=1m flush=100ms;
  keepalive_requests 100000000;
  keepalive_timeout 1h;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  default_type text/plain;
  server {{
    listen {host}:{port} backlog=32768;
    location / {{ return 200 "ok"; }}
    location ~ "^/after/(?<seconds>[0-9.]+)$" {{ echo_sleep $seconds; echo ok; }}
    location = /hang {{ echo_sleep 86400; }}
  }}
}}
"""


class Arrival(NamedTuple):
    """One request. `at`: when its first byte came, in seconds of the epoch, to 1 ms. Headers "" if missing."""

    at: float
    key: str  # Idempotency-Key
    scheduled_at: str  # X-Scheduler-Scheduled-At
    path: str


class Sink(Server):
    """nginx below `data_dir`, on a loopback port. Any method and path is answered with 200 and `ok`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.port = free_port()
        self._child: Child | None = None
        self._log = self.data_dir / "arrivals.log"
        self._marks = itertools.count(1)

    @property
    def pid(self) -> int | None:
        """The server, while it runs."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def url(self, delay_ms: int = 0) -> str:
        """Where an answer comes after that time."""
        return f"http://{LOOPBACK}:{self.port}/" + (f"after/{delay_ms / 1000:g}" if delay_ms else "now")

    @property
    def hanging_url(self) -> str:
        """Where requests are taken and never answered. It shows in the arrivals only when the caller has hung up."""
        return f"http://{LOOPBACK}:{self.port}/hang"

    def start(self) -> None:
        """Raises ConfigurationError when nginx or its echo module is missing, ServerFailed when it won't start."""
        if self.pid:
            return
        program, module = _find_nginx()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        configuration = self.data_dir / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""  # the folder is ours alone
        configuration.write_text(_CONFIGURATION.format(module=module, user=user, host=LOOPBACK, port=self.port))
        output = self.data_dir / "output.log"
        command = [program, "-p", str(self.data_dir), "-c", str(configuration), "-e", str(self.data_dir / "error.log")]
        self._child = start_child(command, log=output)  # SIGTERM, when orphaned: a killed master would leave its worker
        wait_until_ready(self._child, self._answers, name="nginx", log=output)

    def stop(self) -> None:
        if self._child is not None:
            stop_child(self._child)
            self._child = None

    def version(self) -> str:
        told = subprocess.run([_find_nginx()[0], "-v"], capture_output=True, text=True, check=True).stderr
        return told.strip().rpartition("/")[2]

    def clear(self) -> None:
        """Forgets what has arrived up to now."""
        self._flush()
        os.truncate(self._log, 0)

    def arrivals(self) -> list[Arrival]:
        """What was answered since the last `clear`, in the order of the answers."""
        self._flush()
        lines = self._log.read_text(errors="replace").splitlines()
        return [arrival for line in lines if not (arrival := _parse(line)).path.startswith("/mark/")]

    def _flush(self) -> None:
        """Returns when the log holds what was answered before: lines are kept in order, so one of our own tells."""
        mark = f"/mark/{next(self._marks)}"
        self._get(mark)
        wanted = f" {mark} ".encode()
        deadline = time.monotonic() + _LOG_SECONDS
        while wanted not in _tail(self._log):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nginx did not write {mark} to {self._log} within {_LOG_SECONDS} s")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self._get("/mark/0")
        except OSError:
            return False
        return True

    def _get(self, path: str) -> None:
        with contextlib.closing(http.client.HTTPConnection(LOOPBACK, self.port, timeout=_LOG_SECONDS)) as connection:
            connection.request("GET", path)
            connection.getresponse().read()


def _parse(line: str) -> Arrival:
    ended, lasted, path, key, scheduled_at = line.split(" ")
    return Arrival(
        at=round(float(ended) - float(lasted), 3),
        key="" if key == "-" else key,
        scheduled_at="" if scheduled_at == "-" else scheduled_at,
        path=path,
    )


def _tail(path: Path, size: int = 4 << 20) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read()


def _find_nginx() -> tuple[str, Path]:
    program = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")
    module = next((path for path in _MODULES if path.exists()), None)
    if program is None or module is None:
        raise ConfigurationError(
            "the bench needs nginx with its echo module as its target: apt-get install nginx libnginx-mod-http-echo"
        )
    return program, module
