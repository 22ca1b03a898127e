"""How failures are repeated, and what becomes of moments that passed."""

from gnomon.api.schemas.fields import Input, Number, Text, Whole, one_of, optional
from gnomon.job.model import MisfirePolicy


class Retry(Input):
    """How failures are repeated."""

    max_attempts = optional(Whole, "the first one included; 4 by default")
    initial_seconds = optional(Number, "the first pause; 1 by default")
    multiplier = optional(Number, "each pause is this much longer than the one before; 2 by default")
    max_seconds = optional(Number, "the longest pause; 300 by default")
    jitter = optional(Number, "the share of a pause that chance may take away, 0 to 1; 0.5 by default")
    strategy = optional(
        Text, "the name of a function that workers have registered: it decides on the pauses, within max_attempts"
    )


class Misfire(Input):
    """What happens to moments that passed while nothing ran."""

    policy = one_of(MisfirePolicy, "run_once by default")
    grace_seconds = optional(Number, "how late a moment may be and still simply run; 60 by default")
    limit = optional(Whole, "the most that run_all makes up for; 100 by default")
