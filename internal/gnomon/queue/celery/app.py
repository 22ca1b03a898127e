"""The Celery app: which broker, and the settings under which Celery only carries messages and runs workers.

It holds no truth: no results, no ETA, no countdown, no retries. A message may be lost, repeated or reordered; the rows
of the store tell what is still to be done, and what got lost is published again within seconds.
"""

import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from celery import Celery
from kombu import Connection, Exchange, Queue

from gnomon.job.errors import ConfigurationError

TASK_NAME = "gnomon.run"
ANSWER_SECONDS = 5  # how long a broker may take to answer before it counts as away
# A connection that is silent for twice as long counts as dead. Noticed and made anew in less than the 20 s within which
# everything goes on after an outage.
HEARTBEAT_SECONDS = 6

_SETTINGS: Mapping[str, Any] = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "task_ignore_result": True,
    # On Redis a named exchange keeps its bindings in a key of the server: after FLUSHALL a topic or fanout exchange
    # drops messages without a word. The nameless one needs no binding: the routing key is the queue.
    "task_default_exchange": "",
    # The lease protects the work. A late acknowledgement would add redelivery loops (visibility timeout) and RabbitMQ's
    # limit of 30 minutes.
    "task_acks_late": False,
    # A lost message costs one publish slot (15 s); persistence would cost every message a write to disk.
    "task_default_delivery_mode": "transient",
    "task_publish_retry": False,
    "worker_prefetch_multiplier": 1,
    # After a reconnect Celery would set the prefetch count anew, to up to one for each thread.
    "worker_enable_prefetch_count_reduction": False,
    # Concerns late acknowledgement only; False, the default, warns at each reconnect.
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "worker_enable_remote_control": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "broker_connection_timeout": ANSWER_SECONDS,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_heartbeat": HEARTBEAT_SECONDS,
    "broker_pool_limit": 2,
    "broker_pool_acquire_timeout": ANSWER_SECONDS,
}


def create_app(
    queue_url: str,
    *,
    queues: Sequence[str] = ("io",),
    queue_type: str = "classic",
    task_events: bool = False,
    ca_file: str | None = None,
) -> Celery:
    """An app for the broker at `queue_url`. Connects to nothing yet. Raises ConfigurationError for a wrong URL.

    rediss:// and amqps:// want a certificate that is valid and bears the server's name; those in `ca_file` vouch for
    it, or where there is none those that the system trusts. `queue_type`: RabbitMQ's, classic or quorum.
    `task_events`: workers send what Flower shows.
    """
    address = _parse(queue_url)
    app = _App(queue_url)
    app.conf.update(_SETTINGS)
    app.conf.update(_redis_settings() if address.scheme.startswith("redis") else _amqp_settings())
    app.conf.broker_use_ssl = _tls(address, ca_file)
    app.conf.update(
        task_queues=[queue_named(name, queue_type) for name in queues],
        task_default_queue=queues[0],
        task_default_queue_type=queue_type,
        worker_send_task_events=task_events,
    )
    return app


def queue_named(name: str, queue_type: str) -> Queue:
    """A queue that messages reach by its name alone. On RabbitMQ it is durable: a restart empties it, no more."""
    arguments = None if queue_type == "classic" else {"x-queue-type": queue_type}
    return Queue(name, Exchange(""), routing_key=name, durable=True, queue_arguments=arguments)


def time_limits(seconds: float) -> Mapping[str, float]:
    """Transport options that bound each wait for the broker, whichever it is; kombu's defaults are none."""
    return dict.fromkeys(("socket_timeout", "socket_connect_timeout", "read_timeout", "write_timeout"), seconds)


class _App(Celery):  # type: ignore[misc]
    """Speaks to the given broker only: CELERY_BROKER_URL in the environment, meant for another app, changes nothing."""

    def __init__(self, queue_url: str) -> None:
        super().__init__("gnomon", broker=queue_url, set_as_current=False, fixups=())
        self._queue_url = queue_url

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        """The worker's."""
        return super().connection_for_read(url or self._queue_url, **options)

    def connection_for_write(self, url: str | None = None, *args: Any, **options: Any) -> Connection:
        """The publisher's, and that of task events."""
        return super().connection_for_write(url or self._queue_url, *args, **options)


def observing_app(queue_url: str, *, ca_file: str | None = None) -> Celery:
    """An app that only looks at the broker: Flower's, which knows no transports but kombu's own."""
    return Celery("gnomon", broker=queue_url, set_as_current=False, broker_use_ssl=_tls(_parse(queue_url), ca_file))


def _redis_settings() -> Mapping[str, Any]:
    return {
        "broker_transport": "gnomon.queue.celery.transport:RedisTransport",
        "broker_transport_options": {
            **time_limits(ANSWER_SECONDS),
            "socket_keepalive": True,
            "health_check_interval": HEARTBEAT_SECONDS,
            "retry_on_timeout": False,
            # It would cost two round trips a message, and a server out of memory could not even be emptied. What a
            # killed worker had fetched but not admitted is published again long before a visibility timeout.
            "ack_emulation": False,
        },
    }


def _amqp_settings() -> Mapping[str, Any]:
    return {
        "broker_transport": "gnomon.queue.celery.transport:AmqpTransport",
        "broker_transport_options": {**time_limits(ANSWER_SECONDS), "confirm_publish": True},
    }


def _tls(address: SplitResult, ca_file: str | None) -> Mapping[str, Any] | None:
    """Without these kombu takes any certificate on Redis, and py-amqp one for any name."""
    if address.scheme == "rediss":
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, "ssl_ca_certs": ca_file}
    if address.scheme == "amqps":
        return {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": address.hostname, "ca_certs": ca_file}
    return None


def _parse(queue_url: str) -> SplitResult:
    try:
        address = urlsplit(queue_url)
        _check(address)
    except ValueError as error:
        # from None: the cause may quote the URL, password included
        raise ConfigurationError(f"queue-url {error}") from None
    return address


def _check(address: SplitResult) -> None:
    if address.scheme not in ("redis", "rediss", "amqp", "amqps"):
        raise ValueError(
            f"begins with {address.scheme[:20]!r}: write redis://, rediss://, amqp:// or amqps://, and the address"
        )
    try:
        port = address.port
    except ValueError:
        raise ValueError("has a port that is no number from 1 to 65535") from None
    if port == 0 or not address.hostname:
        raise ValueError(f"names no server: write {address.scheme}://host:port")
    if address.query or address.fragment:  # kombu lets them change anything, whether certificates matter included
        raise ValueError(
            "holds options (?) or a fragment (#): leave them out, and percent-encode what is in a password"
        )
    database = address.path.strip("/") or "0"
    if address.scheme.startswith("redis") and not database.isdecimal():
        raise ValueError("ends with a database that is no number: write redis://host:port/0")
