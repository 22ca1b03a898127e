"""Who takes part, what workers announce, and what retention needs.

Revision: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = """
CREATE TABLE instances (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    queues TEXT[] NOT NULL,
    handlers TEXT[] NOT NULL,
    retry_strategies TEXT[] NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    heartbeat_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    left_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT instances_role CHECK (role in ('api', 'scheduler', 'worker'))
);

CREATE TABLE announced (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    queue TEXT,
    schema JSONB,
    since TIMESTAMP WITH TIME ZONE NOT NULL,
    last_seen_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (kind, name),
    CONSTRAINT announced_kind CHECK (kind in ('handler', 'retry_strategy'))
);

CREATE TABLE prunings (
    job_id UUID NOT NULL,
    until TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (job_id)
);

CREATE INDEX executions_failed_of_job ON executions (job_id, id) WHERE state in ('FAILED', 'UNKNOWN', 'CANCELLED');

CREATE INDEX idempotency_keys_resource ON idempotency_keys (resource_id);
"""


def upgrade() -> None:
    """Adds them. Executions can't be written while their index is made."""
    op.execute(TABLES)


def downgrade() -> None:
    """Drops them, data included."""
    op.execute("DROP INDEX executions_failed_of_job, idempotency_keys_resource")
    op.execute("DROP TABLE instances, announced, prunings")
