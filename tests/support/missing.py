"""What this machine can't have."""

import os
from typing import NoReturn

import pytest


def give_up(reason: str) -> NoReturn:
    """Skips the test, loudly; with CI=true in the environment it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
