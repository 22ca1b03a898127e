"""scripts/audit fails where an advisory applies to what is pinned, and never takes silence for good news."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KNOWN = {"jinja2 2.4.1": "PYSEC-2019-217"}


class Advisories(ThreadingHTTPServer):
    """Speaks as much of OSV's protocol as pip-audit asks for. `about` maps "name version" to an advisory's id."""

    def __init__(self, about: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.about = about

    @property
    def options(self) -> list[str]:
        return ["-s", "osv", "--osv-url", f"http://127.0.0.1:{self.server_address[1]}/v1/query"]


class _Answer(BaseHTTPRequestHandler):
    server: Advisories

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = self.server.about.get(f"{asked['package']['name']} {asked['version']}")
        advisory = {"id": found, "details": "breaks", "affected": [], "published": "2026-01-01T00:00:00Z"}
        body = json.dumps({"vulns": [advisory]} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def advisories(request: pytest.FixtureRequest) -> Iterator[Advisories]:
    with Advisories(request.param) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def audit(server: Advisories, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "AUDIT")}
    return subprocess.run(
        [ROOT / "scripts/audit", *server.options],
        env={**kept, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )


def pinned(name: str) -> str:
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    return next(line.split()[0].partition("==")[2] for line in lines if line.startswith(f"{name}=="))


@pytest.mark.parametrize("advisories", [KNOWN], indirect=True)
def test_audit_passes_when_no_advisory_applies(advisories: Advisories) -> None:
    done = audit(advisories, CI="true")
    assert (done.returncode, "No known vulnerabilities found" in done.stdout) == (0, True), done.stdout


@pytest.mark.parametrize("advisories", [{**KNOWN, f"flask {pinned('flask')}": "PYSEC-2026-1"}], indirect=True)
def test_audit_fails_and_names_what_is_vulnerable(advisories: Advisories) -> None:
    done = audit(advisories)
    assert done.returncode != 0
    assert "flask" in done.stdout
    assert "PYSEC-2026-1" in done.stdout


@pytest.mark.parametrize("advisories", [{}], indirect=True)
@pytest.mark.parametrize(
    ("environment", "code"), [({}, 0), ({"CI": "true"}, 1), ({"CI": "true", "AUDIT": "optional"}, 0)]
)
def test_audit_says_that_nothing_is_known_when_not_even_the_control_is_found(
    advisories: Advisories, environment: Mapping[str, str], code: int
) -> None:
    done = audit(advisories, **environment)
    assert (done.returncode, "NOT AUDITED" in done.stdout) == (code, True), done.stdout
