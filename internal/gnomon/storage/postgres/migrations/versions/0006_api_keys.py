"""Keys for the API.

Revision: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"

TABLE = """
CREATE TABLE api_keys (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    digest TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    created_by TEXT NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    revoked_by TEXT,
    last_used_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT api_keys_role CHECK (role in ('metrics', 'read', 'write', 'admin'))
);

CREATE UNIQUE INDEX api_keys_name ON api_keys (name) WHERE revoked_at is null;
"""


def upgrade() -> None:
    """Adds them. There are none yet."""
    op.execute(TABLE)


def downgrade() -> None:
    """Drops them: whoever asks afterwards is nobody."""
    op.execute("DROP TABLE api_keys")
