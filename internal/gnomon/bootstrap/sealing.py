"""What seals and opens the secrets of jobs, as the settings want it."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from gnomon.bootstrap.database import open_engine
from gnomon.job.errors import ConfigurationError, Contended
from gnomon.job.model import Definition
from gnomon.job.sealing import Seal, no_seal, sealed_anew
from gnomon.sealing.hpke import Opener, Sealer
from gnomon.sealing.keys import parse_private, parse_public
from gnomon.settings import Settings
from gnomon.storage.postgres.migrate import require_latest
from gnomon.storage.postgres.sealed import PostgresSealedDefinitions, SealedPart

log = logging.getLogger(__name__)

JOBS_AT_ONCE = 20  # whose locks are held together: dispatch passes over them for the moment
PASSES = 3
CONTENTION_PAUSE = 0.2


def seal_with(settings: Settings) -> Seal:
    """For the API. Raises ConfigurationError."""
    if settings.secrets.private_keys is not None:
        log.warning("secrets-private-keys is set for an API, which could read all credentials: give it to workers only")
    keys = parse_public(settings.public_keys())
    return Sealer(keys[0]) if keys else no_seal


def open_with(settings: Settings) -> Opener:
    """For a worker; without keys it opens nothing. Raises ConfigurationError."""
    return Opener(parse_private(settings.private_keys()))


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """What came of sealing all definitions to the newest key. `old` are the other keys.

    `late`: new revisions were sealed to another key to the last: an API still has it.
    """

    key: str
    old: Sequence[str]
    changed: int
    failures: Sequence[str]
    late: bool


def rotate(settings: Settings, tell: Callable[[int], None]) -> Rotation:
    """Seals what is stored to the first of the private keys; jobs run and change meanwhile. `tell` gets the count.

    Raises ConfigurationError and Unavailable; it can be run again at any time.
    """
    keys = parse_private(settings.private_keys())
    if not keys:
        raise ConfigurationError("secrets-private-keys is not set: run this where a worker's settings are")
    newest = keys[0].public
    # The revisions of a job have copies of one ciphertext, and still have afterwards.
    unseal, seal = lru_cache(1000)(Opener(keys)), lru_cache(1000)(Sealer(newest))

    def change(job_id: UUID, definition: Definition) -> Definition:
        return sealed_anew(definition, job_id=job_id, unseal=unseal, seal=seal, key=newest.id)

    engine = open_engine(settings)
    try:
        require_latest(engine)
        changed, failures, late = _passes(PostgresSealedDefinitions(engine), change, tell)
    finally:
        engine.dispose()
    old = [key.public.id for key in keys[1:]]
    return Rotation(key=newest.id, old=old, changed=changed, failures=failures, late=late)


def _passes(
    stored: PostgresSealedDefinitions, change: Callable[[UUID, Definition], Definition], tell: Callable[[int], None]
) -> tuple[int, Sequence[str], bool]:
    """Until one finds nothing to do: jobs that are made meanwhile lie before or behind it."""
    total = 0
    for _ in range(PASSES):
        before, failures, after = total, list[str](), None
        while (part := _part(stored, change, after)).last is not None:
            after = part.last
            total += part.changed
            failures += part.failures
            if part.changed:
                tell(total)
        if total == before:
            return total, failures, False
    return total, failures, True


def _part(
    stored: PostgresSealedDefinitions, change: Callable[[UUID, Definition], Definition], after: UUID | None
) -> SealedPart:
    while True:
        try:
            return stored.seal_anew(change, after=after, limit=JOBS_AT_ONCE)
        except Contended:  # a job among them is being edited
            time.sleep(CONTENTION_PAUSE)
