"""Every error a caller can act on.

GnomonError
├── InvalidJob            a definition breaks a rule: names each field, and how to mend it
├── KeyReused             an Idempotency-Key came with another request than the first time
├── NotFound              no such job or execution
├── Conflict              the request does not fit the present state
│   ├── NameTaken         another job bears the name
│   ├── CountDiffers      more or fewer executions match than the caller expects
│   ├── CreatedIsGone     what an Idempotency-Key has made was deleted since
│   ├── KeyInFlight       a request with the same Idempotency-Key is under way
│   ├── Overlapping       the job's overlap policy allows no further execution now
│   ├── QuotaExceeded     the operator allows no more of these
│   └── RevisionMismatch  the job changed since the caller read it
├── SecretUnreadable      a stored secret can't be opened by this process
├── Unavailable           the database or the broker does not answer now; try again
│   └── Contended         rows are locked by another session; try again, with fewer of them
└── ConfigurationError    a setting is wrong: the process can't start with it
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, kw_only=True)
class FieldError:
    """One broken rule. `pointer` is a JSON pointer (RFC 6901) into the job as the API shows it."""

    pointer: str
    detail: str
    hint: str | None = None

    def under(self, parent: str) -> "FieldError":
        """The same error seen from the object that holds the field."""
        return FieldError(pointer=f"{parent}{self.pointer}", detail=self.detail, hint=self.hint)


class GnomonError(Exception):
    """The root: whatever Gnomon raises on purpose."""


class InvalidJob(GnomonError):
    """A definition breaks one or more rules; nothing was stored."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{error.pointer or '/'}: {error.detail}" for error in self.errors))

    @classmethod
    def at(cls, pointer: str, detail: str, hint: str | None = None) -> "InvalidJob":
        """The common case: one field, one reason."""
        return cls([FieldError(pointer=pointer, detail=detail, hint=hint)])

    def under(self, parent: str) -> "InvalidJob":
        """The same errors seen from the object that holds the fields."""
        return InvalidJob(error.under(parent) for error in self.errors)


class KeyReused(GnomonError):
    """This Idempotency-Key belongs to another request."""


class NotFound(GnomonError):
    """No job or execution bears this id (or it was deleted)."""


class Conflict(GnomonError):
    """The request is well formed but does not fit the present state."""


class NameTaken(Conflict):
    """Another living job bears this name."""


class CountDiffers(Conflict):
    """More or fewer executions match than the caller expects; nothing was done."""


class CreatedIsGone(Conflict):
    """An earlier request with this Idempotency-Key made a job, and the job was deleted since."""


class KeyInFlight(Conflict):
    """Another request with this Idempotency-Key is under way."""


class Overlapping(Conflict):
    """An execution of the job is unfinished, and its overlap policy allows no other beside it."""


class QuotaExceeded(Conflict):
    """There are as many as the operator allows; the message names the setting."""


class RevisionMismatch(Conflict):
    """The job changed since the caller read it."""

    @classmethod
    def check(cls, job_id: UUID, revision: int, expected: int | None) -> None:
        """Raises one where a revision is expected and the job is at another."""
        if expected is not None and revision != expected:
            raise cls(f"job {job_id} is at revision {revision}, not {expected}: read it again and repeat the change")


class SecretUnreadable(GnomonError):
    """A stored secret can't be opened by this process. `permanent`: nor by any other that does as it should."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        self.permanent = permanent
        super().__init__(reason)

    @classmethod
    def without_key(cls, key: str) -> "SecretUnreadable":
        """It may be that another process has the key."""
        return cls(
            f"it is sealed to the key {key[:40]}, whose private half is not in secrets-private-keys here",
            permanent=False,
        )

    def at(self, pointer: str) -> "SecretUnreadable":
        """The same, said of a field."""
        return SecretUnreadable(f"the secret at {pointer} can't be opened: {self}", permanent=self.permanent)


class Unavailable(GnomonError):
    """A server this process depends on does not answer now; the same call may succeed later."""

    def __init__(self, message: str, *, retry_after_seconds: int = 5) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class Contended(Unavailable):
    """Another session holds the rows; fewer of them may pass."""


class ConfigurationError(GnomonError):
    """A setting is missing or wrong; the message names it and what to write instead."""
