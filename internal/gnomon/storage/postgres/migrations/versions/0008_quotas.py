"""Whose key created a job, and how many jobs there are of each.

Revision: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"

COLUMNS = """
ALTER TABLE jobs ADD COLUMN created_by TEXT DEFAULT '' NOT NULL;

CREATE TABLE job_counts (
    owner TEXT NOT NULL,
    part SMALLINT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (owner, part)
);

INSERT INTO job_counts SELECT '', 0, count(*) FROM jobs WHERE deleted_at is null;
"""

# Sessions that create jobs at once count in different rows, and don't wait for each other. `search_path` is that of the
# tables, whoever writes.
TRIGGERS = """
CREATE FUNCTION jobs_count_created() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO job_counts AS c (owner, part, count)
    SELECT created_by, pg_backend_pid() % 16, count(*) FROM created WHERE deleted_at is null
    GROUP BY created_by ORDER BY created_by
    ON CONFLICT (owner, part) DO UPDATE SET count = c.count + excluded.count;
    RETURN null;
END
$$;

CREATE FUNCTION jobs_count_deleted() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO job_counts AS c (owner, part, count) VALUES (old.created_by, pg_backend_pid() % 16, -1)
    ON CONFLICT (owner, part) DO UPDATE SET count = c.count - 1;
    RETURN null;
END
$$;

CREATE TRIGGER jobs_created AFTER INSERT ON jobs REFERENCING NEW TABLE AS created FOR EACH STATEMENT
    EXECUTE FUNCTION jobs_count_created();

CREATE TRIGGER jobs_deleted AFTER UPDATE OF deleted_at ON jobs FOR EACH ROW
    WHEN (old.deleted_at IS NULL AND new.deleted_at IS NOT NULL) EXECUTE FUNCTION jobs_count_deleted();

CREATE TRIGGER jobs_removed AFTER DELETE ON jobs FOR EACH ROW WHEN (old.deleted_at IS NULL)
    EXECUTE FUNCTION jobs_count_deleted();
"""


def upgrade() -> None:
    """Counts what there is. Jobs can't be written meanwhile."""
    op.execute(COLUMNS)
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Forgets it."""
    op.execute(
        "DROP TRIGGER jobs_created ON jobs; DROP TRIGGER jobs_deleted ON jobs; DROP TRIGGER jobs_removed ON jobs"
    )
    op.execute("DROP FUNCTION jobs_count_created; DROP FUNCTION jobs_count_deleted")
    op.execute("DROP TABLE job_counts; ALTER TABLE jobs DROP COLUMN created_by")
