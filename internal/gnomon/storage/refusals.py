"""What callers of any store are told when it refuses: one wording, whatever the store."""

from uuid import UUID

from gnomon.job.errors import Conflict, CreatedIsGone, KeyInFlight, KeyReused, NameTaken, NotFound, Overlapping
from gnomon.job.model import REPEATABLE, Execution, State
from gnomon.job.ports import Once


def no_job(job_id: UUID) -> NotFound:
    """There is none, or it was deleted."""
    return NotFound(f"no job {job_id}")


def no_job_named(name: str) -> NotFound:
    """There is none, or it was deleted."""
    return NotFound(f"no job is named {name[:200]!r}")


def no_execution(execution_id: UUID) -> NotFound:
    """There never was one, or it is no longer kept."""
    return NotFound(f"no execution {execution_id}")


def name_taken(name: str | None) -> NameTaken:
    """By another living job."""
    return NameTaken(f"another job is named {name!r}: choose another name, or change that job")


def key_reused(once: Once) -> KeyReused:
    """The key belongs to another request."""
    return KeyReused(f"the Idempotency-Key {once.key[:80]!r} came with another request before: use a new one")


def key_in_flight(once: Once) -> KeyInFlight:
    """Its transaction has not ended."""
    return KeyInFlight(f"a request with the Idempotency-Key {once.key[:80]!r} is under way: send it again in a moment")


def created_is_gone(once: Once, job_id: UUID) -> CreatedIsGone:
    """The key has done its work, and somebody has undone it."""
    return CreatedIsGone(
        f"the Idempotency-Key {once.key[:80]!r} created job {job_id}, which was deleted since: use a new key to create "
        "another"
    )


def overlapping(job_id: UUID, active: tuple[UUID, str] | None) -> Overlapping:
    """`active`: the id and state of the execution that is in the way, where it is known."""
    what = "an execution" if active is None else f"execution {active[0]} ({active[1]})"
    return Overlapping(
        f"job {job_id} does not overlap and has {what} unfinished: wait for it, cancel it, or ask with queue=true"
    )


def not_failed(execution_id: UUID | None, state: str) -> Conflict:
    """Nothing is there to be tried again."""
    return Conflict(f"execution {execution_id} is {state}: only what failed can be tried again")


def refuse_repeat(execution: Execution) -> None:
    """Raises Conflict for an execution that did not fail."""
    if execution.state not in REPEATABLE:
        raise not_failed(execution.id, execution.state)


def refuse_cancel(execution: Execution) -> None:
    """Raises Conflict for an execution that ended otherwise than cancelled."""
    if execution.state.final and execution.state is not State.CANCELLED:
        raise Conflict(f"execution {execution.id} is {execution.state}: there is nothing left to cancel")
