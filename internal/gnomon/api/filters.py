"""Which jobs are meant: the filters that the list of jobs and actions on many share."""

from collections.abc import Mapping
from typing import Any

from gnomon.api.paging import instant_of
from gnomon.job.model import JobStatus
from gnomon.job.ports import JobQuery


def chosen_jobs(given: Mapping[str, Any]) -> JobQuery:
    """Those that the filters leave. Raises InvalidJob."""
    listed = [tag for text in given.get("tags") or () for tag in text.split(",") if tag]
    return JobQuery(
        status=JobStatus(given["status"]) if given.get("status") is not None else None,
        kind=given.get("type"),
        tags=(*(given.get("tag") or ()), *listed),
        name_contains=given.get("q"),
        queue=given.get("queue"),
        next_run_after=instant_of(given, "next_run_after"),
        next_run_before=instant_of(given, "next_run_before"),
    )
