"""Sealing keys for tests: one pair for the session, and another that nobody has the private half of."""

from gnomon.sealing.hpke import Opener, Sealer
from gnomon.sealing.keys import PrivateKey

PRIVATE = PrivateKey.generate()
SEAL = Sealer(PRIVATE.public)
OPEN = Opener([PRIVATE])
FOR_API = {"SCHEDULER_SECRETS_PUBLIC_KEYS": str(PRIVATE.public)}
FOR_WORKER = {"SCHEDULER_SECRETS_PRIVATE_KEYS": PRIVATE.reveal()}
