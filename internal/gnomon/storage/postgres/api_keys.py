"""KeyStore on Postgres."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from psycopg2.errorcodes import UNDEFINED_TABLE
from sqlalchemy import Engine, Row, Select, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError, ProgrammingError

from gnomon.job.api_key import ApiKey, NewKey
from gnomon.job.errors import NameTaken, NotFound, Unavailable
from gnomon.job.principal import Role
from gnomon.storage.postgres.engine import Direct, autocommit, error_code, translated
from gnomon.storage.postgres.tables import api_keys

USES_NOTED = timedelta(minutes=1)
ANY_MADE = Direct(text("select exists (select from api_keys)"))


@contextmanager
def _answered() -> Iterator[None]:
    """As `translated`; who asks before the tables are there is to come back."""
    try:
        with translated():
            yield
    except ProgrammingError as error:
        if error_code(error) != UNDEFINED_TABLE:
            raise
        raise Unavailable("the database has no table of keys yet: run `gnomon migrate`") from error


class PostgresKeyStore:
    """KeyStore on Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._autocommit = autocommit(engine)

    def add(self, key: NewKey) -> ApiKey:
        """Raises NameTaken."""
        with _answered(), self._autocommit.connect() as connection:
            try:
                connection.execute(insert(api_keys).values(_values(key)))
            except IntegrityError as error:
                raise NameTaken(
                    f"another key bears the name {key.name!r}: choose another one, or revoke that key first"
                ) from error
            return _read(connection.execute(_select().where(api_keys.c.id == key.id)).one())

    def ensure(self, key: NewKey) -> None:
        """One transaction, and another one where somebody took the name at the same time."""
        columns = api_keys.c
        known = select(columns.id).where(columns.id == key.id)
        former = update(api_keys).where(columns.name == key.name, columns.revoked_at.is_(None), columns.id != key.id)
        # Not of the id alone: a twin that comes in the middle of it would meet the index of the names, and fail.
        new = insert(api_keys).values(_values(key)).on_conflict_do_nothing()
        is_there = False
        while not is_there:
            with _answered(), self._engine.begin() as connection:
                is_there = connection.execute(known).first() is not None
                if not is_there:
                    connection.execute(former.values(revoked_at=func.now(), revoked_by=key.created_by))
                    is_there = connection.execute(new).rowcount == 1

    def find(self, key_id: str) -> ApiKey | None:
        """By the id."""
        with _answered(), self._autocommit.connect() as connection:
            row = connection.execute(_select().where(api_keys.c.id == key_id)).first()
        return None if row is None else _read(row)

    def list(self) -> Sequence[ApiKey]:
        """The oldest first."""
        with _answered(), self._autocommit.connect() as connection:
            rows = connection.execute(_select().order_by(api_keys.c.created_at, api_keys.c.id)).all()
        return [_read(row) for row in rows]

    def revoke(self, reference: str, *, by: str) -> ApiKey:
        """Raises NotFound."""
        columns = api_keys.c
        meant = or_(columns.id == reference, columns.name == reference)
        # An id before a name that reads like one, and of keys that bore the name that which still holds.
        likeliest = (columns.id != reference, columns.revoked_at.desc())  # nulls come first
        with _answered(), self._engine.begin() as connection:
            chosen = select(columns.id).where(meant).order_by(*likeliest).limit(1).with_for_update()
            key_id = connection.execute(chosen).scalar()
            if key_id is None:
                raise NotFound(f"no key has the id or the name {reference[:200]!r}: `gnomon keys list` shows all")
            held = update(api_keys).where(columns.id == key_id, columns.revoked_at.is_(None))
            connection.execute(held.values(revoked_at=func.now(), revoked_by=by))
            return _read(connection.execute(_select().where(columns.id == key_id)).one())

    def used(self, key_id: str) -> None:
        """Writes at most once a minute, however many processes ask."""
        last = api_keys.c.last_used_at
        due = or_(last.is_(None), last < func.now() - USES_NOTED)
        noted = update(api_keys).where(api_keys.c.id == key_id, due).values(last_used_at=func.now())
        with _answered(), self._autocommit.connect() as connection:
            connection.execute(noted)

    def any_made(self) -> bool:
        """Whether there is a row, whatever became of its key."""
        with _answered():
            return bool(ANY_MADE.rows(self._engine)[0][0])


def _values(key: NewKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "digest": key.digest,
        "expires_at": key.expires_at,
        "created_by": key.created_by,
    }


def _select() -> Select[Any]:
    expired = func.coalesce(api_keys.c.expires_at <= func.now(), False)
    return select(api_keys, expired.label("expired"))


def _read(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        digest=row.digest,
        expires_at=row.expires_at,
        created_by=row.created_by,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
        last_used_at=row.last_used_at,
        expired=row.expired,
    )
