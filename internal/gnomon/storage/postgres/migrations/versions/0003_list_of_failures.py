"""An index for the list of what failed.

Revision: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds it. Executions can't be written meanwhile."""
    op.execute("CREATE INDEX executions_failed ON executions (id) WHERE state in ('FAILED', 'UNKNOWN')")


def downgrade() -> None:
    """Drops it."""
    op.execute("DROP INDEX executions_failed")
