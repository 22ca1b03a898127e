"""How failures are repeated, and what becomes of moments that passed."""

from gnomon.api.schemas.fields import Input, Number, Text, Whole, one_of, optional, within
from gnomon.job.document import MAX_MISFIRES, MAX_PAUSE_SECONDS
from gnomon.job.model import MisfirePolicy
from gnomon.job.retry import MAX_ATTEMPTS, MAX_MULTIPLIER


class Retry(Input):
    """How failures are repeated."""

    max_attempts = optional(Whole, "the first one included; 4 by default", metadata=within(1, MAX_ATTEMPTS))
    initial_seconds = optional(Number, "the first pause; 1 by default", metadata=within(0, MAX_PAUSE_SECONDS))
    multiplier = optional(
        Number, "each pause is this much longer than the one before; 2 by default", metadata=within(1, MAX_MULTIPLIER)
    )
    max_seconds = optional(Number, "the longest pause; 300 by default", metadata=within(0, MAX_PAUSE_SECONDS))
    jitter = optional(Number, "the share of a pause that chance may take away; 0.5 by default", metadata=within(0, 1))
    strategy = optional(
        Text, "the name of a function that workers have registered: it decides on the pauses, within max_attempts"
    )


class Misfire(Input):
    """What happens to moments that passed while nothing ran."""

    policy = one_of(MisfirePolicy, "run_once by default")
    grace_seconds = optional(
        Number, "how late a moment may be and still simply run; 60 by default", metadata=within(0, MAX_PAUSE_SECONDS)
    )
    limit = optional(Whole, "the most that run_all makes up for; 100 by default", metadata=within(1, MAX_MISFIRES))
