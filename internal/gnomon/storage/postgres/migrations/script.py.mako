"""${message}

Revision: ${up_revision}
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """What it adds."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """What it takes away."""
    ${downgrades if downgrades else "pass"}
