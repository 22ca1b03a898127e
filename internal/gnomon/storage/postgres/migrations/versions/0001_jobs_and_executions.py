"""Jobs, revisions, executions, attempts and tallies; the trigger that refuses an illegal transition.

Revision: 0001
"""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE executions (
    id UUID NOT NULL,
    job_id UUID NOT NULL,
    revision INTEGER NOT NULL,
    kind TEXT NOT NULL,
    queue TEXT NOT NULL,
    scheduled_at TIMESTAMP WITH TIME ZONE NOT NULL,
    trigger TEXT NOT NULL,
    repeats UUID,
    state TEXT NOT NULL,
    attempt INTEGER DEFAULT 0 NOT NULL,
    failures INTEGER DEFAULT 0 NOT NULL,
    max_attempts INTEGER NOT NULL,
    overlap TEXT NOT NULL,
    available_at TIMESTAMP WITH TIME ZONE NOT NULL,
    next_publish_at TIMESTAMP WITH TIME ZONE,
    publish_count SMALLINT DEFAULT 0 NOT NULL,
    lease_owner UUID,
    lease_expires_at TIMESTAMP WITH TIME ZONE,
    cancel_requested_at TIMESTAMP WITH TIME ZONE,
    effect_started_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    published_at TIMESTAMP WITH TIME ZONE,
    claimed_at TIMESTAMP WITH TIME ZONE,
    first_started_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    error_code TEXT,
    error_message TEXT,
    response_status INTEGER,
    response_excerpt TEXT,
    worker TEXT,
    skipped_count INTEGER DEFAULT 0 NOT NULL,
    skipped_until TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT executions_state CHECK (state in ('WAITING', 'PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'UNKNOWN', 'CANCELLED', 'SKIPPED')),
    CONSTRAINT executions_overlap CHECK (overlap in ('skip', 'allow', 'queue', 'serial')),
    CONSTRAINT executions_publishable CHECK ((state = 'PENDING') <= (next_publish_at is not null)),
    CONSTRAINT executions_leased CHECK ((state = 'RUNNING') <= (lease_expires_at is not null))
);

CREATE INDEX executions_cancel ON executions (cancel_requested_at) WHERE state = 'RUNNING' and cancel_requested_at is not null;

CREATE INDEX executions_history ON executions (job_id, id);

CREATE INDEX executions_lease ON executions (lease_expires_at) WHERE state = 'RUNNING';

CREATE UNIQUE INDEX executions_one_active ON executions (job_id) WHERE overlap <> 'allow' and state in ('PENDING', 'RUNNING');

CREATE UNIQUE INDEX executions_one_waiting ON executions (job_id) WHERE overlap = 'queue' and state = 'WAITING';

CREATE INDEX executions_publish ON executions (next_publish_at) WHERE state = 'PENDING';

CREATE INDEX executions_waiting ON executions (job_id, id) WHERE state = 'WAITING';

CREATE TABLE jobs (
    id UUID NOT NULL,
    name TEXT,
    type TEXT NOT NULL,
    queue TEXT NOT NULL,
    status TEXT NOT NULL,
    cron_schedule TEXT,
    interval_seconds BIGINT,
    anchor_at TIMESTAMP WITH TIME ZONE,
    execute_at TIMESTAMP WITH TIME ZONE,
    timezone TEXT NOT NULL,
    starts_at TIMESTAMP WITH TIME ZONE,
    ends_at TIMESTAMP WITH TIME ZONE,
    spread_seconds INTEGER NOT NULL,
    misfire_policy TEXT NOT NULL,
    misfire_grace_seconds DOUBLE PRECISION NOT NULL,
    misfire_limit INTEGER NOT NULL,
    misfires_run INTEGER DEFAULT 0 NOT NULL,
    overlap TEXT NOT NULL,
    max_attempts INTEGER NOT NULL,
    tags TEXT[] NOT NULL,
    revision INTEGER NOT NULL,
    next_run TIMESTAMP WITH TIME ZONE,
    held_until TIMESTAMP WITH TIME ZONE,
    hold_reason TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT jobs_status CHECK (status in ('RUNNING', 'STOPPED', 'COMPLETED')),
    CONSTRAINT jobs_one_schedule CHECK (num_nonnulls(cron_schedule, interval_seconds, execute_at) = 1),
    CONSTRAINT jobs_overlap CHECK (overlap in ('skip', 'allow', 'queue'))
);

CREATE INDEX jobs_due ON jobs (next_run, id) WHERE status = 'RUNNING' and next_run is not null;

CREATE UNIQUE INDEX jobs_name ON jobs (name) WHERE deleted_at is null;

CREATE INDEX jobs_newest ON jobs (created_at, id) WHERE deleted_at is null;

CREATE INDEX jobs_tags ON jobs USING gin (tags) WHERE deleted_at is null;

CREATE TABLE tallies (
    instance_id UUID NOT NULL,
    kind TEXT NOT NULL,
    queue TEXT NOT NULL,
    outcome TEXT NOT NULL,
    count BIGINT NOT NULL,
    duration_sum DOUBLE PRECISION NOT NULL,
    duration_buckets BIGINT[] NOT NULL,
    PRIMARY KEY (instance_id, kind, queue, outcome)
);

CREATE TABLE attempts (
    execution_id UUID NOT NULL,
    attempt INTEGER NOT NULL,
    worker TEXT,
    claimed_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE NOT NULL,
    outcome TEXT NOT NULL,
    error_code TEXT,
    error_message TEXT,
    response_status INTEGER,
    PRIMARY KEY (execution_id, attempt),
    CONSTRAINT attempts_execution FOREIGN KEY(execution_id) REFERENCES executions (id) ON DELETE CASCADE
);

CREATE TABLE job_revisions (
    job_id UUID NOT NULL,
    revision INTEGER NOT NULL,
    definition JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (job_id, revision),
    CONSTRAINT job_revisions_job FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
"""

# The second wall: the statements are guarded, and should a guard ever be wrong the transaction fails instead.
TRANSITIONS = """
CREATE FUNCTION executions_refuse_illegal_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.attempt <> old.attempt + (new.state = 'RUNNING')::int THEN
        RAISE EXCEPTION 'execution %: only a claim raises the attempt, by one', old.id;
    END IF;
    IF NOT (
        old.state = 'WAITING' AND new.state IN ('PENDING', 'CANCELLED')
        OR old.state = 'PENDING' AND new.state IN ('RUNNING', 'CANCELLED')
        OR old.state = 'RUNNING' AND new.state IN ('PENDING', 'SUCCEEDED', 'FAILED', 'UNKNOWN', 'CANCELLED')
    ) THEN
        RAISE EXCEPTION 'execution %: % can not become %', old.id, old.state, new.state;
    END IF;
    RETURN new;
END
$$;

CREATE TRIGGER executions_transition BEFORE UPDATE OF state, attempt ON executions FOR EACH ROW
    WHEN (old.state IS DISTINCT FROM new.state OR old.attempt IS DISTINCT FROM new.attempt)
    EXECUTE FUNCTION executions_refuse_illegal_transition();
"""


def upgrade() -> None:
    """Creates everything."""
    op.execute(TABLES)
    op.execute(TRANSITIONS)


def downgrade() -> None:
    """Drops everything, data included."""
    op.execute("DROP TABLE tallies, attempts, executions, job_revisions, jobs")
    op.execute("DROP FUNCTION executions_refuse_illegal_transition")
