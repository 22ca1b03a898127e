"""Due rows in the references' own tables. Their programs import it, so it needs nothing of the bench."""

import os

import psycopg2


def connect() -> psycopg2.extensions.connection:
    """A session in which each statement is a transaction."""
    session = psycopg2.connect(os.environ["BENCH_DATABASE_URL"])
    session.autocommit = True
    return session


def seed(table: str, first: int, count: int, lead: float) -> None:
    """So many rows from number `first` on, due in `lead` seconds; prints that moment, as seconds since 1970."""
    with connect().cursor() as cursor:
        cursor.execute("select extract(epoch from now() + make_interval(secs => %s))::float8", (lead,))
        (due,) = cursor.fetchone() or ()
        cursor.execute(
            f"insert into {table} (id, due_at, url) select id, to_timestamp(%s), %s from generate_series(%s, %s) id",
            (due, os.environ["BENCH_URL"], first, first + count - 1),
        )
        cursor.execute(f"vacuum (analyze) {table}")
    print(due)
