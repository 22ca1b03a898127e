"""The second wall costs a comparison where a transition is legal, and no call.

Revision: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"

# Called only to say what is wrong: the trigger's condition has found that something is.
REFUSE = """
CREATE OR REPLACE FUNCTION executions_refuse_illegal_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.attempt <> old.attempt + (new.state = 'RUNNING')::int THEN
        RAISE EXCEPTION 'execution %: only a claim raises the attempt, by one', old.id;
    END IF;
    RAISE EXCEPTION 'execution %: % can not become %', old.id, old.state, new.state;
END
$$;

DROP TRIGGER executions_transition ON executions;

CREATE TRIGGER executions_transition BEFORE UPDATE OF state, attempt ON executions FOR EACH ROW
    WHEN (
        (old.state IS DISTINCT FROM new.state OR old.attempt IS DISTINCT FROM new.attempt)
        AND (
            new.attempt <> old.attempt + (new.state = 'RUNNING')::int
            OR NOT (
                old.state = 'PENDING' AND new.state IN ('RUNNING', 'CANCELLED')
                OR old.state = 'RUNNING' AND new.state IN ('PENDING', 'SUCCEEDED', 'FAILED', 'UNKNOWN', 'CANCELLED')
                OR old.state = 'WAITING' AND new.state IN ('PENDING', 'CANCELLED')
            )
        )
    )
    EXECUTE FUNCTION executions_refuse_illegal_transition();
"""

AS_BEFORE = """
CREATE OR REPLACE FUNCTION executions_refuse_illegal_transition() RETURNS trigger LANGUAGE plpgsql AS $$
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

DROP TRIGGER executions_transition ON executions;

CREATE TRIGGER executions_transition BEFORE UPDATE OF state, attempt ON executions FOR EACH ROW
    WHEN (old.state IS DISTINCT FROM new.state OR old.attempt IS DISTINCT FROM new.attempt)
    EXECUTE FUNCTION executions_refuse_illegal_transition();
"""


def upgrade() -> None:
    """Nobody writes executions meanwhile."""
    op.execute(REFUSE)


def downgrade() -> None:
    """Puts the former trigger back."""
    op.execute(AS_BEFORE)
