"""What of Celery's own log a worker passes on."""

import logging

import pytest
from amqp.exceptions import ConnectionForced

from gnomon.queue.celery import consumer


@pytest.mark.parametrize(
    ("error", "is_news"),
    [(ConnectionResetError(), False), (ConnectionForced("closed"), False), (RuntimeError(), True), (None, True)],
)
def test_only_a_lost_connection_that_is_told_of_anyway_is_kept_quiet(error: Exception | None, is_news: bool) -> None:
    cause = None if error is None else (type(error), error, None)
    record = logging.LogRecord("celery.worker.loops", logging.ERROR, __file__, 1, "cleaning up", (), cause)
    assert consumer._is_news(record) is is_news
