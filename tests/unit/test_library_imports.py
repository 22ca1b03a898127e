"""What a program pays for the library before it uses it."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    *("flask", "celery", "kombu", "sqlalchemy", "alembic", "psycopg2", "redis", "pydantic", "jsonschema"),
    *("pycurl", "pika", "uvloop", "gunicorn", "marshmallow", "click", "asyncio"),
}


def imported(program: str, *, among: set[str] = HEAVY) -> set[str]:
    """Which of these modules the program has imported at its end."""
    told = f"{program}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60, check=True)
    return among & set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import gnomon", "from gnomon import Scheduler; Scheduler('redis://127.0.0.1')"])
def test_importing_it_imports_nothing_heavy(statement: str) -> None:
    assert imported(statement) == set()


def test_scheduler_in_memory_needs_no_web_broker_or_database() -> None:
    program = (
        "from gnomon import Every, Scheduler\n"
        "scheduler = Scheduler()\n"
        "scheduler.register('a', Every(1), lambda: None)\n"
        "with scheduler: scheduler.jobs()"
    )
    needed = {"asyncio", "pydantic", "jsonschema"}
    assert imported(program) <= needed


def test_scheduler_on_redis_needs_no_web_broker_or_database() -> None:
    program = (
        "from gnomon import Scheduler, Unavailable\n"
        "try: Scheduler('redis://127.0.0.1:1').start()\n"
        "except Unavailable: pass"
    )
    assert imported(program, among=HEAVY - {"redis", "asyncio", "jsonschema", "pydantic"}) == set()


def test_every_public_name_is_found_and_listed() -> None:
    import gnomon

    public = [name for name in dir(gnomon) if name in gnomon._PLACES]
    assert "Scheduler" in public
    assert all(getattr(gnomon, name) is not None for name in public)
    with pytest.raises(AttributeError, match="Schedule"):
        gnomon.Schedule  # noqa: B018 - the point is that it is not there


@pytest.mark.parametrize(("module", "url"), [("redis", "rediss://host"), ("sqlalchemy", "postgresql://host/name")])
def test_driver_that_is_missing_is_named(module: str, url: str, tmp_path: Path) -> None:
    program = f"import sys; sys.modules['{module}'] = None\nfrom gnomon import Scheduler\nScheduler('{url}').start()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert f"needs the Python package {module}" in done.stderr
    assert "ConfigurationError" in done.stderr
