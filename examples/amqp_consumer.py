"""Consumes the messages of amqp_job.py, and does the work of each execution once.

    .venv/bin/python examples/amqp_consumer.py

BROKER is the RabbitMQ (amqp://guest:guest@127.0.0.1:5672/). DONE is the database in which it notes what it has done
(done.db, here in memory).
"""

import contextlib
import os
import sqlite3

import pika
from pika.adapters.blocking_connection import BlockingChannel

BROKER = os.environ.get("BROKER", "amqp://guest:guest@127.0.0.1:5672/")
DONE = sqlite3.connect(os.environ.get("DONE", ":memory:"))
DONE.execute("create table if not exists done (execution text primary key)")


def consume(
    channel: BlockingChannel, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes
) -> None:
    """Works on a message, unless that was done before, and only then acknowledges it."""
    with DONE:  # the note and the work in one transaction: both happen, or neither does
        new = DONE.execute("insert or ignore into done values (?)", [properties.message_id]).rowcount
        if new:
            print(f"working on {body.decode()} for execution {properties.message_id}", flush=True)
    channel.basic_ack(method.delivery_tag)


if __name__ == "__main__":
    with pika.BlockingConnection(pika.URLParameters(BROKER)) as connection:
        channel = connection.channel()
        channel.exchange_declare("shop", "direct", durable=True)
        channel.queue_declare("orders", durable=True)
        channel.queue_bind("orders", "shop", "order.created")
        channel.basic_qos(prefetch_count=10)
        channel.basic_consume("orders", consume)
        print("waiting for messages", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            channel.start_consuming()
