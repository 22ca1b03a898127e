"""The tables, each index beside the query it serves. What changes here needs a migration; a test compares the two."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData()
Instant = DateTime(timezone=True)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text),
    Column("type", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("cron_schedule", Text),
    Column("interval_seconds", BigInteger),
    Column("anchor_at", Instant),
    Column("execute_at", Instant),
    Column("timezone", Text, nullable=False),
    Column("starts_at", Instant),
    Column("ends_at", Instant),
    Column("spread_seconds", Integer, nullable=False),
    Column("misfire_policy", Text, nullable=False),
    Column("misfire_grace_seconds", Double, nullable=False),
    Column("misfire_limit", Integer, nullable=False),
    Column("misfires_run", Integer, nullable=False, server_default=text("0")),
    Column("overlap", Text, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("next_run", Instant),
    Column("held_until", Instant),
    Column("hold_reason", Text),
    Column("pause_reason", Text),
    Column("paused_until", Instant),
    Column("created_at", Instant, nullable=False, server_default=text("now()")),
    Column("updated_at", Instant, nullable=False, server_default=text("now()")),
    Column("deleted_at", Instant),
    # whose key it was, or who else; nobody where it is not known
    Column("created_by", Text, nullable=False, server_default=text("''")),
    CheckConstraint("status in ('RUNNING', 'STOPPED', 'COMPLETED')", name="jobs_status"),
    CheckConstraint("num_nonnulls(cron_schedule, interval_seconds, execute_at) = 1", name="jobs_one_schedule"),
    CheckConstraint("overlap in ('skip', 'allow', 'queue')", name="jobs_overlap"),
    # the due scan, the idle poll and the wake-up time
    Index(
        "jobs_due",
        "next_run",
        "id",
        postgresql_where=text("status = 'RUNNING' and next_run is not null"),
    ),
    # pauses that end by themselves, and the wake-up time
    Index("jobs_resume", "paused_until", postgresql_where=text("status = 'STOPPED' and paused_until is not null")),
    # jobs whose last moment was dispatched ahead, until it has come
    Index("jobs_through", "held_until", postgresql_where=text("status = 'RUNNING' and next_run is null")),
    Index("jobs_name", "name", unique=True, postgresql_where=text("deleted_at is null")),
    # the list, newest first
    Index("jobs_newest", "created_at", "id", postgresql_where=text("deleted_at is null")),
    Index("jobs_tags", "tags", postgresql_using="gin", postgresql_where=text("deleted_at is null")),
)

# How many jobs there are that are not deleted, by whose key created them. Kept by triggers; a count is the sum of its
# parts, of which each may be negative.
job_counts = Table(
    "job_counts",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("part", SmallInteger, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

job_revisions = Table(
    "job_revisions",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("definition", JSONB, nullable=False),
    Column("created_at", Instant, nullable=False, server_default=text("now()")),
    ForeignKeyConstraint(["job_id"], ["jobs.id"], name="job_revisions_job", ondelete="CASCADE"),
)

# The audit trail: what was done to a job, and from when until when its schedule owes moments.
job_events = Table(
    "job_events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("at", Instant, nullable=False, server_default=text("now()")),
    Column("action", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("owed_from", Instant),
    Column("owed_until", Instant),
    Column("reason", Text),
    # whose key it was, or who else; nobody where the schedule did it
    Column("principal", Text, nullable=False, server_default=text("''")),
    Column("changed", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Index("job_events_of_job", "job_id", "id"),
)

executions = Table(
    "executions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("scheduled_at", Instant, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("repeats", Uuid),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("max_attempts", Integer, nullable=False),
    Column("overlap", Text, nullable=False),
    Column("available_at", Instant, nullable=False),
    Column("next_publish_at", Instant),
    Column("publish_count", SmallInteger, nullable=False, server_default=text("0")),
    Column("lease_owner", Uuid),
    Column("lease_expires_at", Instant),
    Column("cancel_requested_at", Instant),
    Column("effect_started_at", Instant),
    Column("created_at", Instant, nullable=False, server_default=text("now()")),
    Column("published_at", Instant),
    Column("claimed_at", Instant),
    Column("first_started_at", Instant),
    Column("finished_at", Instant),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("response_status", Integer),
    Column("response_excerpt", Text),
    Column("worker", Text),
    Column("skipped_count", Integer, nullable=False, server_default=text("0")),
    Column("skipped_until", Instant),
    CheckConstraint(
        "state in ('WAITING', 'PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'UNKNOWN', 'CANCELLED', 'SKIPPED')",
        name="executions_state",
    ),
    CheckConstraint("overlap in ('skip', 'allow', 'queue', 'serial')", name="executions_overlap"),
    CheckConstraint("(state = 'PENDING') <= (next_publish_at is not null)", name="executions_publishable"),
    CheckConstraint("(state = 'RUNNING') <= (lease_expires_at is not null)", name="executions_leased"),
    # R1 and the wake-up time
    Index("executions_publish", "next_publish_at", postgresql_where=text("state = 'PENDING'")),
    # R2 and the wake-up time
    Index("executions_lease", "lease_expires_at", postgresql_where=text("state = 'RUNNING'")),
    # a worker's question every two seconds
    Index(
        "executions_cancel",
        "cancel_requested_at",
        postgresql_where=text("state = 'RUNNING' and cancel_requested_at is not null"),
    ),
    # the history of a job, newest first
    Index("executions_history", "job_id", "id"),
    # what failed for good, of all jobs, newest first
    Index("executions_failed", "id", postgresql_where=text("state in ('FAILED', 'UNKNOWN')")),
    # whether an execution was tried again
    Index("executions_repeats", "repeats", postgresql_where=text("repeats is not null")),
    # what failed, of one job, with what was cancelled: retention counts them apart from what succeeded
    Index(
        "executions_failed_of_job",
        "job_id",
        "id",
        postgresql_where=text("state in ('FAILED', 'UNKNOWN', 'CANCELLED')"),
    ),
    # overlap: held by the database, so it holds across schedulers
    Index(
        "executions_one_active",
        "job_id",
        unique=True,
        postgresql_where=text("overlap <> 'allow' and state in ('PENDING', 'RUNNING')"),
    ),
    Index(
        "executions_one_waiting",
        "job_id",
        unique=True,
        postgresql_where=text("overlap = 'queue' and state = 'WAITING'"),
    ),
    # promotion: the oldest that waits
    Index("executions_waiting", "job_id", "id", postgresql_where=text("state = 'WAITING'")),
)

attempts = Table(
    "attempts",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("worker", Text),
    Column("claimed_at", Instant),
    Column("finished_at", Instant, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("response_status", Integer),
    ForeignKeyConstraint(["execution_id"], ["executions.id"], name="attempts_execution", ondelete="CASCADE"),
)

tallies = Table(
    "tallies",
    metadata,
    Column("instance_id", Uuid, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("queue", Text, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("duration_sum", Double, nullable=False),
    Column("duration_buckets", ARRAY(BigInteger), nullable=False),
)

# Which resource a request with an Idempotency-Key made. Written in the transaction of the effect.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("resource_id", Uuid, nullable=False),
    Column("created_at", Instant, nullable=False, server_default=text("now()")),
    Column("expires_at", Instant, nullable=False),
    Index("idempotency_keys_expiry", "expires_at"),
    # retention spares what a key still answers with
    Index("idempotency_keys_resource", "resource_id"),
)

# Who may ask. `digest` fits one key, its role and its expiry. Rows stay: the audit trail refers to them.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_at", Instant, nullable=False, server_default=text("now()")),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Instant),
    Column("revoked_at", Instant),
    Column("revoked_by", Text),
    Column("last_used_at", Instant),
    CheckConstraint("role in ('metrics', 'read', 'write', 'admin')", name="api_keys_role"),
    Index("api_keys_name", "name", unique=True, postgresql_where=text("revoked_at is null")),
)

# The processes that take part. `handlers` and `retry_strategies` are the names that each announces.
instances = Table(
    "instances",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("queues", ARRAY(Text), nullable=False),
    Column("handlers", ARRAY(Text), nullable=False),
    Column("retry_strategies", ARRAY(Text), nullable=False),
    Column("started_at", Instant, nullable=False, server_default=text("now()")),
    Column("heartbeat_at", Instant, nullable=False, server_default=text("now()")),
    Column("left_at", Instant),
    CheckConstraint("role in ('api', 'scheduler', 'worker')", name="instances_role"),
)

# What can be named in a definition. Outlives the processes that announced it; `since` is when the one started whose
# schema holds.
announced = Table(
    "announced",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("queue", Text),
    Column("schema", JSONB),
    Column("since", Instant, nullable=False),
    Column("last_seen_at", Instant, nullable=False),
    CheckConstraint("kind in ('handler', 'retry_strategy')", name="announced_kind"),
)

# Moments up to here may lack their rows, because retention removed them: of one job, or (a nil id) of all.
prunings = Table(
    "prunings",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("until", Instant, nullable=False),
)
