"""An index for the question whether an execution was tried again.

Revision: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds it. Executions can't be written meanwhile."""
    op.execute("CREATE INDEX executions_repeats ON executions (repeats) WHERE repeats is not null")


def downgrade() -> None:
    """Drops it."""
    op.execute("DROP INDEX executions_repeats")
