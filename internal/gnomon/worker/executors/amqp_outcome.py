"""What an AMQP attempt amounts to, decided from what the broker said or how the connection ended."""

import os
import ssl
from typing import assert_never

from pika import exceptions
from pika.adapters.utils import connection_workflow as workflow

from gnomon.job.amqp import Broker
from gnomon.job.outcome import Failed, Outcome, Sent, Succeeded
from gnomon.job.target import AmqpTarget
from gnomon.worker.executors.amqp_link import Answer

# What a broker closes a channel with over the message itself: trying again can't help (AMQP 0-9-1, 1.1).
FAULTS = {
    404: ("unknown_exchange", "has no exchange {exchange!r}"),
    403: ("forbidden", "does not let this user publish to the exchange {exchange!r}"),
    406: ("refused_message", "does not take a message like this"),
    311: ("refused_message", "does not take a message of this size"),
}


def answered(target: AmqpTarget, answer: Answer) -> Outcome:
    """The outcome of a message that the broker answered for."""
    broker = target.broker
    match answer:
        case Answer.CONFIRMED:
            return Succeeded()
        case Answer.UNROUTABLE:
            message = (
                f"{broker} has no queue for the routing key {target.routing_key!r} of the exchange {target.exchange!r}"
            )
            return Failed(code="unroutable", message=message, sent=Sent.ANSWERED, permanent=True)
        case Answer.REFUSED:
            message = f"{broker} refused the message (basic.nack)"
            return Failed(code="nacked", message=message, sent=Sent.ANSWERED, permanent=False)
        case _:
            assert_never(answer)


def ended(target: AmqpTarget, error: exceptions.AMQPError, sent: Sent) -> Failed:
    """The outcome of a message whose channel or connection ended before the broker answered."""
    broker = target.broker
    if isinstance(error, exceptions.ChannelClosedByBroker):
        if sent is Sent.MAYBE_SENT and error.reply_code in FAULTS:
            code, fault = FAULTS[error.reply_code]
            message = f"{broker} {fault.format(exchange=target.exchange)}"
            return Failed(code=code, message=message, sent=Sent.ANSWERED, permanent=True)
        return _failed("reset", f"{broker} closed the channel with {error.reply_code} {_when(sent)}", sent)
    if isinstance(error, exceptions.ConnectionClosedByBroker):
        return _failed("reset", f"{broker} closed the connection with {error.reply_code} {_when(sent)}", sent)
    if isinstance(error, exceptions.AMQPHeartbeatTimeout):
        return _failed("reset", f"{broker} fell silent {_when(sent)}", sent)
    if isinstance(error, exceptions.NoFreeChannels):
        return _failed("busy", f"{broker} has no channel left for this worker", sent)
    return _failed("reset", f"the connection to {broker} was lost {_when(sent)}", sent)


def not_connected(broker: Broker, error: Exception) -> Failed:
    """The outcome of all that waited for a connection that did not come about.

    Wrong credentials and an unknown vhost are tried again like a refused connection: nothing was sent, and they are set
    right, or come back with a broker's restart, without the job being edited.
    """
    phase, cause = _phase_and_cause(error)
    if isinstance(cause, TimeoutError | workflow.AMQPConnectorStackTimeout):
        return _failed("timeout", f"gave up connecting to {broker}")
    if isinstance(cause, ssl.SSLError):
        return _failed("tls", f"no secure connection to {broker}: {_tls_reason(cause)}")
    if isinstance(cause, exceptions.ProbableAuthenticationError | exceptions.AuthenticationError):
        return _failed("auth", f"{broker} does not accept the user name and password")
    if isinstance(cause, exceptions.ProbableAccessDeniedError):
        return _failed("auth", f"{broker} has no vhost {broker.vhost!r}, or none for this user")
    if isinstance(cause, exceptions.IncompatibleProtocolError | exceptions.ProtocolVersionMismatch):
        return _failed("bad_response", f"{broker} does not speak AMQP 0-9-1, or hung up at once")
    if phase is workflow.AMQPConnectorSocketConnectError and isinstance(cause, OSError):
        reason = os.strerror(cause.errno).lower() if cause.errno else "connection failed"
        return _failed("refused", f"{broker} could not be reached: {reason}")
    return _failed("reset", f"{broker} hung up while the connection was made")


def _failed(code: str, message: str, sent: Sent = Sent.NOT_SENT) -> Failed:
    return Failed(code=code, message=message, sent=sent, permanent=False)


def _when(sent: Sent) -> str:
    return "before the message was sent" if sent is Sent.NOT_SENT else "before it confirmed the message"


def _phase_and_cause(error: BaseException) -> tuple[type[BaseException], BaseException]:
    """pika wraps what happened in where it happened."""
    phase: type[BaseException] = type(error)
    while True:
        if isinstance(error, workflow.AMQPConnectionWorkflowFailed) and error.exceptions:
            error = error.exceptions[-1]
        elif isinstance(error, workflow.AMQPConnectorPhaseErrorBase):
            phase, error = type(error), error.exception
        else:
            return phase, error


def _tls_reason(error: ssl.SSLError) -> str:
    reason = getattr(error, "verify_message", None) or error.reason or "handshake failed"
    return str(reason).lower().replace("_", " ")
