"""The hot statements reach their rows by the right index, with 100,000 rows about and statistics that are stale."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import TextClause, text
from support.world import HTTP_JOB, World

from gnomon.storage.postgres import housekeeping, statements
from gnomon.storage.postgres.literals import json_rows, uuid_array
from gnomon.storage.postgres.planned import form_of

ROWS = 100_000
IDS = [uuid4() for _ in range(100)]
TOKENS = json_rows([{"id": one, "attempt": 1} for one in IDS])


def fill_jobs(world: World) -> None:
    """Jobs due in the coming hours, statistics fresh."""
    world.create(http_job=HTTP_JOB)
    columns = "type, queue, status, interval_seconds, anchor_at, timezone, spread_seconds, misfire_policy"
    more = "misfire_grace_seconds, misfire_limit, overlap, max_attempts, tags, revision"
    world.sql(
        f"insert into jobs (id, {columns}, {more}, next_run) select gen_random_uuid(), {columns}, {more}, "
        f"now() + make_interval(secs => n) from jobs, generate_series(1, {ROWS}) n"
    )
    world.sql("analyze jobs")


def fill_executions(world: World, state: str, rows: int) -> None:
    columns = (
        "id, job_id, revision, kind, queue, scheduled_at, trigger, state, max_attempts, overlap, available_at, "
        "next_publish_at, lease_expires_at"
    )
    world.sql(
        f"insert into executions ({columns}) "
        "select gen_random_uuid(), gen_random_uuid(), 1, 'HTTP', 'io', now(), 'SCHEDULE', :state, 4, 'skip', now(), "
        "now() + interval '1 hour', now() + interval '1 hour' from generate_series(1, :rows)",
        state=state,
        rows=rows,
    )


def plan_of(world: World, statement: TextClause, **parameters: Any) -> list[dict[str, Any]]:
    """Every node of the plan."""
    return _read_plan(world.sql(f"explain (format json) {statement.text}", **parameters)[0][0])


def kept_plan_of(world: World, statement: TextClause, **parameters: Any) -> list[dict[str, Any]]:
    """Every node of the plan that the sessions of schedulers and workers keep."""
    form = form_of(statement)
    with world.by_index.connect() as connection:
        connection.execute(form.prepare)
        plan = connection.execute(text(f"explain (format json) {form.execute.text}"), parameters).scalar_one()
        connection.execute(text(f"deallocate {form.name}"))
    return _read_plan(plan)


def _read_plan(plan: Any) -> list[dict[str, Any]]:
    return list(_nodes((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _nodes(child)


def scans_of(plan: list[dict[str, Any]], table: str) -> set[str]:
    """How the plan reads a table: names of indexes, or the kind of scan where it uses none."""
    reads = [node for node in plan if node.get("Relation Name") == table and "Scan" in node["Node Type"]]
    return {_whole_key(node) or node.get("Index Name") or _bitmaps_below(node) or node["Node Type"] for node in reads}


def _whole_key(node: dict[str, Any]) -> str | None:
    """Where the primary key is read from end to end: that is reading the table, and worse."""
    name = str(node.get("Index Name"))
    return f"all of {name}" if name.endswith("_pkey") and "Index Cond" not in node else None


def _bitmaps_below(node: dict[str, Any]) -> str:
    return " ".join(below["Index Name"] for below in _nodes(node) if below["Node Type"] == "Bitmap Index Scan")


def test_due_scan_reads_the_due_index_only(world: World) -> None:
    fill_jobs(world)
    assert scans_of(plan_of(world, statements.DUE, limit=1000, behind_limit=100), "jobs") == {"jobs_due"}
    ahead = plan_of(world, statements.DUE_AHEAD, limit=1000, behind_limit=100, ahead=5)
    assert scans_of(ahead, "jobs") == {"jobs_due"}


def test_wake_up_time_comes_from_the_ends_of_indexes(world: World) -> None:
    fill_jobs(world)
    fill_executions(world, "PENDING", ROWS)
    world.sql("analyze executions")
    for plan in (plan_of(world, statements.HORIZON), plan_of(world, statements.HORIZON_AHEAD, ahead=5, tick=1)):
        assert scans_of(plan, "jobs") == {"jobs_due", "jobs_resume"}
        assert scans_of(plan, "executions") == {"executions_publish"}


def test_republish_scan_reads_the_publish_index_only(world: World) -> None:
    fill_executions(world, "SUCCEEDED", ROWS)
    fill_executions(world, "PENDING", 1000)
    world.sql("analyze executions")
    plan = plan_of(world, statements.REPUBLISH, limit=100, slot=15, longest=900)
    assert {"executions_publish"} <= scans_of(plan, "executions") <= {"executions_publish", "executions_pkey"}


def test_rescue_scan_reads_the_lease_index_only(world: World) -> None:
    fill_executions(world, "SUCCEEDED", ROWS)
    fill_executions(world, "RUNNING", 1000)
    world.sql("analyze executions")
    plan = plan_of(
        world, statements.RESCUE, grace=2, spare=None, spread=30, longest=900, instance=uuid4(), again="lost"
    )
    reads = scans_of(plan, "executions")
    assert {"executions_lease"} <= reads <= {"executions_lease", "executions_pkey", "executions_waiting"}


def test_question_for_overlooked_executions_reads_the_publish_index_only(world: World) -> None:
    fill_executions(world, "SUCCEEDED", ROWS)
    fill_executions(world, "PENDING", 1000)
    world.sql("analyze executions")
    plan = plan_of(world, statements.OVERLOOKED, queues=["io"], oldest=60, newest=15, longest=1000)
    assert scans_of(plan, "executions") == {"executions_publish"}


@pytest.mark.parametrize("analyzed_when", ["empty", "small"])
def test_claim_and_record_reach_rows_by_primary_key_with_a_backlog_and_stale_statistics(
    world: World, analyzed_when: str
) -> None:
    if analyzed_when == "small":
        fill_executions(world, "SUCCEEDED", 50_000)
        fill_executions(world, "PENDING", 3)
        fill_executions(world, "RUNNING", 3)
    world.sql("analyze executions")
    world.sql("alter table executions set (autovacuum_enabled = false)")
    fill_executions(world, "PENDING", ROWS)
    claim = plan_of(
        world, statements.CLAIM, ids=uuid_array(IDS), delivery=uuid4(), lease=30, worker="w", instance=uuid4()
    )
    rows = json_rows([{"id": one, "attempt": 1, "state": "SUCCEEDED", "delay": 0, "failed": False} for one in IDS])
    record = plan_of(world, statements.RECORD, rows=rows, instance=uuid4(), again="retried")
    assert scans_of(claim, "executions") == {"executions_pkey"}
    assert {"executions_pkey"} <= scans_of(record, "executions") <= {"executions_pkey", "executions_waiting"}
    renew = plan_of(world, statements.RENEW, tokens=TOKENS, lease=30)
    assert scans_of(renew, "executions") == {"executions_pkey"}


def test_plans_that_sessions_keep_go_by_indexes_even_when_they_are_made_in_an_empty_database(world: World) -> None:
    """However many rows come later: no session looks for a better way."""
    claiming = {"ids": uuid_array(IDS), "delivery": uuid4(), "lease": 30, "worker": "w", "instance": uuid4()}
    assert scans_of(kept_plan_of(world, statements.CLAIM, **claiming), "executions") == {"executions_pkey"}
    recording = {"rows": "[]", "instance": uuid4(), "again": "retried"}
    record = scans_of(kept_plan_of(world, statements.RECORD, **recording), "executions")
    assert {"executions_pkey"} <= record <= {"executions_pkey", "executions_waiting"}
    for statement in (statements.PENDING, statements.RETURN_SLOTS):
        assert scans_of(kept_plan_of(world, statement, ids=uuid_array(IDS)), "executions") == {"executions_pkey"}
    putting_off = {"ids": uuid_array(IDS), "delay": 1.0, "spread": 1.0, "instance": uuid4()}
    assert scans_of(kept_plan_of(world, statements.PUT_OFF, **putting_off), "executions") == {"executions_pkey"}
    starting = {"tokens": TOKENS, "delivery": uuid4(), "margin": 1.0}
    assert scans_of(kept_plan_of(world, statements.START, **starting), "executions") == {"executions_pkey"}
    assert scans_of(kept_plan_of(world, statements.RENEW, tokens=TOKENS, lease=30), "executions") == {"executions_pkey"}
    release = scans_of(kept_plan_of(world, statements.RELEASE, tokens=TOKENS, delay=0.0), "executions")
    assert {"executions_pkey"} <= release <= {"executions_pkey", "executions_waiting"}
    before = scans_of(kept_plan_of(world, statements.RECORDED_BEFORE, tokens="[]"), "executions")
    assert before == {"executions_pkey"}
    inserting = {"rows": "[]", "state": "PENDING", "trigger": "SCHEDULE", "slot": 15}
    assert scans_of(kept_plan_of(world, statements.INSERT_EXECUTIONS, **inserting), "jobs") == {"jobs_pkey"}
    assert scans_of(kept_plan_of(world, statements.ADVANCE, rows="[]"), "jobs") == {"jobs_pkey"}
    assert scans_of(kept_plan_of(world, statements.DEFINITIONS, keys="[]"), "job_revisions") == {"job_revisions_pkey"}
    look_ahead = {"ahead": 5.0, "tick": 1.0}
    for wake_up, given in ((statements.HORIZON, {}), (statements.HORIZON_AHEAD, look_ahead)):
        plan = kept_plan_of(world, wake_up, **given)
        assert scans_of(plan, "jobs") == {"jobs_due", "jobs_resume"}
        assert scans_of(plan, "executions") == {"executions_publish"}
    batch = {"limit": 1000, "behind_limit": 100}
    for due in (
        kept_plan_of(world, statements.DUE, **batch),
        kept_plan_of(world, statements.DUE_AHEAD, **batch, ahead=5.0),
    ):
        assert scans_of(due, "jobs") == {"jobs_due"}
        assert "Sort" not in {node["Node Type"] for node in due}, "it would read all that is due for each batch of it"
    resume = scans_of(kept_plan_of(world, statements.RESUME, limit=1000), "jobs")
    assert resume == {"jobs_resume", "jobs_through", "jobs_pkey"}


def test_taking_back_reads_the_end_of_a_jobs_history_only(world: World) -> None:
    fill_executions(world, "SUCCEEDED", ROWS)
    world.sql("analyze executions")
    plan = plan_of(world, statements.TAKE_BACK, id=uuid4(), first=UUID(int=2**127))
    assert scans_of(plan, "executions") <= {"executions_history", "executions_pkey"}


def test_question_what_to_try_again_reads_the_indexes_of_failures_and_of_repetitions_only(world: World) -> None:
    fill_executions(world, "SUCCEEDED", ROWS)
    fill_executions(world, "FAILED", 1000)
    world.sql(
        "update executions set repeats = gen_random_uuid() where id in "
        "(select id from executions where state = 'SUCCEEDED' limit 20000)"
    )
    world.sql("analyze executions")
    statement = text(
        "select id from executions e where state in ('FAILED', 'UNKNOWN') and not exists "
        "(select 1 from executions o where o.repeats = e.id) order by id limit 1000"
    )
    reads = scans_of(plan_of(world, statement), "executions")
    assert "executions_failed" in reads
    assert reads <= {"executions_failed", "executions_repeats"}


def test_list_of_failures_reads_the_index_of_failures_only(world: World) -> None:
    fill_executions(world, "SUCCEEDED", ROWS)
    fill_executions(world, "FAILED", 1000)
    world.sql("analyze executions")
    statement = text("select id from executions where state in ('FAILED', 'UNKNOWN') order by id desc limit 50")
    assert scans_of(plan_of(world, statement), "executions") == {"executions_failed"}


HISTORIES = {"executions_history", "executions_failed_of_job"}
AGES = {"succeeded": 7 * 86_400, "failed": 30 * 86_400}


@pytest.mark.parametrize("statistics", ["fresh", "stale"])
def test_retention_walks_along_the_primary_key_and_looks_at_jobs_by_their_history(
    world: World, statistics: str
) -> None:
    if statistics == "stale":
        world.sql("analyze executions, jobs, idempotency_keys")
    fill_jobs(world)
    fill_executions(world, "SUCCEEDED", ROWS)
    fill_executions(world, "FAILED", 1000)
    if statistics == "fresh":
        world.sql("analyze executions, jobs, idempotency_keys")
    walk = {"after": UUID(int=0), "before": UUID(int=2**127), "nobody": UUID(int=0), "part": 1000}
    aged = plan_of(world, housekeeping.PRUNE_AGED, newest=10, last=UUID(int=2**128 - 1), **walk, **AGES)
    assert scans_of(aged, "executions") == {"executions_pkey", "executions_history"}
    visit = {"after": UUID(int=0), "per_job": 10_000, "young": 60, "succeeded": 60, "part": 100}
    found = plan_of(world, housekeeping.UNTIDY_JOBS, **visit)
    assert scans_of(found, "executions") <= HISTORIES
    assert scans_of(found, "jobs") == {"jobs_pkey"}
    job = {"job_id": uuid4(), "per_job": 10_000, "part": 1000}
    failed = plan_of(world, housekeeping.PRUNE_CROWD_OF_FAILED, **job)
    assert scans_of(failed, "executions") <= {"executions_pkey", *HISTORIES}
    succeeded = plan_of(world, housekeeping.PRUNE_CROWD_OF_SUCCEEDED, **job)
    assert scans_of(succeeded, "executions") == {"executions_pkey", "executions_history"}
    revisions = plan_of(world, housekeeping.DROP_REVISIONS, job_id=uuid4(), nobody=UUID(int=0))
    assert scans_of(revisions, "executions") == {"executions_history"}
