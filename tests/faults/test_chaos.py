"""A little chaos on each broker. `scripts/chaos` runs longer, and with any seed."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 600


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_half_a_minute_of_chaos_breaks_no_promise(broker: str, request: pytest.FixtureRequest) -> None:
    if broker == "rabbitmq":
        request.getfixturevalue("rabbitmq")  # says so, or fails, where it is not installed
    command = [ROOT / "scripts" / "chaos", "--minutes", "0.5", "--broker", broker, "--seed", _seed()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_SECONDS)
    assert done.returncode == 0, done.stdout[-8_000:]
    print(done.stdout[-3_000:])


def _seed() -> str:
    """Another one for each commit; 1 outside a repository."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return str(int(asked.stdout[:6], 16)) if asked.returncode == 0 else "1"
