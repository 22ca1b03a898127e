"""The target of AMQP jobs: a RabbitMQ of its own, whose queues a witness consumes, behind links that break.

Messages reach the queue `direct` through the default exchange, and `routed` through the exchange `effects`. Faults may
take the exchange or the queue `routed` away, but never a message: a queue is deleted only after it was unbound and the
witness has emptied it. So each confirmed message must be in the witness's log in the end.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servers.rabbitmq import is_installed
from servers.stamp import BLANK, HEADER, StampingProxy

from chaos.brokers import Missed, Rabbit

available = is_installed
LINKS = ("amqp-link-1", "amqp-link-2")
_EXCHANGE, _DIRECT, _ROUTED = "effects", "direct", "routed"
_DRAIN_SECONDS = 2.0
_POLL_SECONDS = 0.05
_REFUSAL = '[{<<"max-length">>, 0}, {<<"overflow">>, <<"reject-publish">>}]'
_VHOST, _POLICY, _USER = '<<"/">>', '<<"refusal">>', '<<"chaos">>'
_MESSAGES = "lists:sum([N || Q <- rabbit_amqqueue:list(), {messages, N} <- rabbit_amqqueue:info(Q, [messages])])"


class Post(Rabbit):
    """The broker. What a fault took away comes back with `restore`, or as soon as the broker is there again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "target")
        self._whole = False

    def close_connections(self) -> None:
        """All of them, as an administrator does."""
        self._administer('rabbit_networking:close_all_connections("chaos")')

    def lose_exchange(self) -> None:
        with self._admin() as channel:
            self._whole = False
            channel.exchange_delete(_EXCHANGE)

    def lose_queue(self) -> None:
        """It stays, without its binding, where the witness does not get it empty in time."""
        with self._admin() as channel:
            self._whole = False
            channel.queue_unbind(_ROUTED, _EXCHANGE, _ROUTED)
            give_up_at = time.monotonic() + _DRAIN_SECONDS
            while not self.drained():
                if time.monotonic() > give_up_at:
                    return
                time.sleep(_POLL_SECONDS)
            channel.queue_delete(_ROUTED)

    def refuse(self) -> None:
        """basic.nack for every message."""
        self._whole = False
        rule = f'{_VHOST}, {_POLICY}, <<"^(direct|routed)$">>, {_REFUSAL}, 0, <<"queues">>, {_USER}'
        self._administer(f"rabbit_policy:set({rule})")

    def restore(self) -> None:
        """All that `lose_exchange`, `lose_queue` and `refuse` took away."""
        with contextlib.suppress(Missed):
            self._check_answers()
            self._restore()

    def drained(self) -> bool:
        """Whether the witness has acknowledged every message."""
        return self._administer(_MESSAGES) == "0"

    def thaw(self) -> None:
        super().thaw()
        self._make_whole()

    def _start(self) -> None:
        super()._start()
        self._make_whole()

    def _make_whole(self) -> None:
        if not self._whole:
            with contextlib.suppress(Missed):
                self._restore()

    def _restore(self) -> None:
        self._server.evaluate(f"rabbit_policy:delete({_VHOST}, {_POLICY}, {_USER}), ok")
        with self.channel() as channel:
            channel.exchange_declare(_EXCHANGE, "direct", durable=True)
            for queue in (_DIRECT, _ROUTED):
                channel.queue_declare(queue, durable=True)
            channel.queue_bind(_ROUTED, _EXCHANGE, _ROUTED)
        self._whole = True

    def _admin(self) -> Any:
        self._check_answers()
        return self.channel()


class PostOffice:
    """The broker with its links and its witness."""

    def __init__(self, folder: Path) -> None:
        self.post = Post(folder)
        self._folder = folder
        self._open = contextlib.ExitStack()
        self.links: Mapping[str, StampingProxy] = {}
        self._witness: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when messages can be sent."""
        self.post.start()
        self.links = {name: StampingProxy.before(self.post.url) for name in LINKS}
        for link in self.links.values():
            self._open.enter_context(link)
        self._open.enter_context(self._witnessing())

    def stop(self) -> None:
        self._open.close()
        self.post.stop()

    def heal(self) -> None:
        """Everything."""
        for link in self.links.values():
            link.heal()
        self.post.empty()
        self.post.restore()

    def message(self, choice: float) -> dict[str, Any]:
        """Where and what a job sends. `choice` in [0, 1) picks the link and the way to the witness."""
        link = self.links[LINKS[int(choice * len(LINKS))]]
        routed = choice * len(LINKS) % 1 < 0.5
        return {
            "connection": link.url(self.post.url),
            "exchange": _EXCHANGE if routed else "",
            "routing_key": _ROUTED if routed else _DIRECT,
            "headers": {HEADER: BLANK.decode()},
            "body": "{}",
        }

    @contextlib.contextmanager
    def _witnessing(self) -> Any:
        command = [sys.executable, "-m", "chaos.witness", str(self._folder / "witness.log"), _DIRECT, _ROUTED]
        with (self._folder / "witness.err").open("ab") as errors:
            process = subprocess.Popen(command, env={**os.environ, "CHAOS_BROKER": self.post.url}, stderr=errors)
            try:
                yield
            finally:
                process.terminate()
                process.wait()
