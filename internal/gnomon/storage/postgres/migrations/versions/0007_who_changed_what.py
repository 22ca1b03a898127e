"""Who did what to a job, and which fields changed.

Revision: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Adds both to the audit trail. Of what is there already nobody knows."""
    op.execute(
        "ALTER TABLE job_events ADD COLUMN principal TEXT DEFAULT '' NOT NULL, ADD COLUMN changed TEXT[] DEFAULT '{}' NOT NULL"
    )


def downgrade() -> None:
    """Drops them."""
    op.execute("ALTER TABLE job_events DROP COLUMN principal, DROP COLUMN changed")
