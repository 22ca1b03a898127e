"""Jobs whose last moment was dispatched ahead are found when it has come.

Revision: 0010
"""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """There are none before, so the index is empty."""
    op.execute("CREATE INDEX jobs_through ON jobs (held_until) WHERE status = 'RUNNING' AND next_run IS NULL")


def downgrade() -> None:
    """Those that are left are completed: nobody would do that any more."""
    op.execute("UPDATE jobs SET status = 'COMPLETED', held_until = NULL WHERE status = 'RUNNING' AND next_run IS NULL")
    op.execute("UPDATE jobs SET held_until = NULL WHERE held_until IS NOT NULL AND hold_reason IS NULL")
    op.execute("DROP INDEX jobs_through")
