"""A handler's transaction that also records its success: W of docs/protocol.md, beside what the handler writes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from gnomon.job.model import State
from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.ports import Record, Token
from gnomon.storage.postgres import statements
from gnomon.storage.postgres.engine import translated
from gnomon.storage.postgres.executions import AGAIN_AFTER_FAILURE, record_row
from gnomon.storage.postgres.literals import json_rows

# The server ends the session of a process that is stopped inside its transaction, as it ends ours; but a handler may
# compute between two statements, or have a long one.
BEGIN = text("""
select set_config('statement_timeout', :limit, true), set_config('lock_timeout', :limit, true),
    set_config('idle_in_transaction_session_timeout', :limit, true), txid_current() as id
""")
SAME = text("select txid_current() = :id")


class TransactionEnded(Exception):
    """A handler must not commit or roll back: that is done with the record of its success."""


class PostgresEffects:
    """EffectStore on Postgres. `instance` is the worker's, in whose name it is tallied."""

    def __init__(self, engine: Engine, *, instance: UUID) -> None:
        self._engine = engine
        self._instance = instance

    def together(self, token: Token, effect: Callable[[Connection], Succeeded], *, timeout: timedelta) -> Outcome:
        """One transaction, in which the handler can't end it."""
        began = time.monotonic()
        with translated():
            connection = self._engine.connect()
        with connection:
            with translated():
                limit = f"{max(1, int(timeout.total_seconds() * 1000))}ms"
                transaction_id = connection.execute(BEGIN, {"limit": limit}).one().id
            with _kept_open(connection):
                succeeded = effect(connection)
            taken = timedelta(seconds=time.monotonic() - began)
            return self._record(connection, transaction_id, token, succeeded, taken)

    def _record(
        self, connection: Connection, transaction_id: int, token: Token, succeeded: Succeeded, taken: timedelta
    ) -> Outcome:
        try:
            if not connection.execute(SAME, {"id": transaction_id}).scalar_one():
                return _failed(
                    "transaction_ended", "the handler ended the transaction that it was given", permanent=True
                )
            if token.id not in self._write(connection, token, succeeded, taken):
                return _failed("lost", "the attempt was taken over; what it wrote was rolled back")
        except DBAPIError as error:
            reason = type(error.orig).__name__
            return _failed("not_recorded", f"the success could not be recorded and was rolled back ({reason})")
        try:
            connection.commit()
        except DBAPIError as error:
            reason = type(error.orig).__name__
            return _failed("not_recorded", f"the commit was not confirmed ({reason})", sent=Sent.MAYBE_SENT)
        return Succeeded(response_excerpt=succeeded.response_excerpt, recorded=True)

    def _write(self, connection: Connection, token: Token, succeeded: Succeeded, taken: timedelta) -> set[UUID]:
        record = Record(
            token=token,
            owner=token.id,  # not written: it names who may ask for a lost reply, and here nobody does
            state=State.SUCCEEDED,
            duration=taken,
            response_excerpt=succeeded.response_excerpt,
        )
        parameters = {
            "rows": json_rows([record_row(record)]),
            "instance": self._instance,
            "again": AGAIN_AFTER_FAILURE,
        }
        return set(connection.execute(statements.RECORD, parameters).scalars())


@contextmanager
def _kept_open(connection: Connection) -> Iterator[None]:
    """Refuses to commit or to roll back, until the handler is through; savepoints are its own."""

    def refuse(_connection: Connection) -> None:
        raise TransactionEnded("a handler can't end its transaction: return to commit it, raise to roll it back")

    for name in ("commit", "rollback"):
        event.listen(connection, name, refuse)
    try:
        yield
    finally:
        for name in ("commit", "rollback"):
            event.remove(connection, name, refuse)


def _failed(code: str, message: str, *, permanent: bool = False, sent: Sent = Sent.ANSWERED) -> Failed:
    return Failed(code=code, message=message, sent=sent, permanent=permanent)
