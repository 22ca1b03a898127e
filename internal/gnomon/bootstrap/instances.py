"""How a process makes itself known to the others."""

import os
import socket
from collections.abc import Sequence
from uuid import uuid4

from gnomon import __version__
from gnomon.job.instance import Identity, Role
from gnomon.settings import Settings


def identity_of(settings: Settings, role: Role, *, queues: Sequence[str] = ()) -> Identity:
    """That of this very process: with an id that is new each time."""
    return Identity(
        id=uuid4(),
        name=settings.scheduler.id,
        role=role,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=__version__,
        queues=tuple(queues),
    )
