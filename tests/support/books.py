"""Whether the books of a job are right: every moment of its schedule in exactly one row."""

from collections import Counter
from datetime import datetime, timedelta
from uuid import UUID

from support.world import World


def unbalanced_moments(world: World, job_id: UUID) -> dict[datetime, int]:
    """Moments of an interval job, from its first to the one before `next_run`, that lie in no row or in several.

    Enumerated from the schedule's own columns, not with the code under test. Empty when the books are right.
    """
    (job,) = world.sql("select anchor_at, interval_seconds, next_run from jobs where id = :id", id=job_id)
    step = timedelta(seconds=job.interval_seconds)
    count = round((job.next_run - job.anchor_at) / step)
    booked: Counter[datetime] = Counter()
    for row in world.sql(
        "select scheduled_at, state, skipped_count, skipped_until from executions "
        "where job_id = :id and trigger = 'SCHEDULE'",
        id=job_id,
    ):
        moments = row.skipped_count if row.state == "SKIPPED" else 1
        booked.update(row.scheduled_at + step * number for number in range(moments))
        if row.state == "SKIPPED":
            assert row.scheduled_at + step * (moments - 1) == row.skipped_until
    expected = {job.anchor_at + step * number for number in range(1, count)}
    return {moment: booked[moment] for moment in expected | booked.keys() if booked[moment] != (moment in expected)}
