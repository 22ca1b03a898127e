"""What seals and opens the secrets of jobs, as the settings want it."""

import logging

from gnomon.job.sealing import Seal, no_seal
from gnomon.sealing.hpke import Opener, Sealer
from gnomon.sealing.keys import parse_private, parse_public
from gnomon.settings import Settings

log = logging.getLogger(__name__)


def seal_with(settings: Settings) -> Seal:
    """For the API. Raises ConfigurationError."""
    if settings.secrets.private_keys is not None:
        log.warning("secrets-private-keys is set for an API, which could read all credentials: give it to workers only")
    keys = parse_public(settings.public_keys())
    return Sealer(keys[0]) if keys else no_seal


def open_with(settings: Settings) -> Opener:
    """For a worker; without keys it opens nothing. Raises ConfigurationError."""
    return Opener(parse_private(settings.private_keys()))
