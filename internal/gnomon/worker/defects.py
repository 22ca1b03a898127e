"""How faults of ours are logged where credentials are at hand."""

import logging
import traceback


def log_defect(log: logging.Logger, error: Exception, message: str, *args: object) -> None:
    """Where it happened and its kind, but not the exception's text: a library's may quote what it was given."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error(f"{message} (%s)", *args, type(error).__qualname__, extra={"frames": frames.replace("\n", " | ")})
