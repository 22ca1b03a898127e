"""A worker is never deaf: whatever ends its link to RabbitMQ, messages are heard again within seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.rabbitmq import RabbitMQ
from support.disconnects import CLOSE_ALL, IN_CI, IN_FULL, Scene, disconnect_again_and_again, scene_on

from gnomon.queue.celery.app import HEARTBEAT_SECONDS


@pytest.fixture
def scene(rabbitmq: RabbitMQ, rabbitmq_url: str, tmp_path: Path) -> Iterator[Scene]:
    with scene_on(rabbitmq, rabbitmq_url, tmp_path) as scene:
        yield scene


def test_messages_are_heard_again_after_each_disconnect(scene: Scene) -> None:
    disconnect_again_and_again(scene, of_each_kind=IN_CI)


@pytest.mark.long
def test_messages_are_heard_again_after_each_of_two_hundred_disconnects(scene: Scene) -> None:
    disconnect_again_and_again(scene, of_each_kind=IN_FULL)


def test_connection_that_the_server_closes_as_soon_as_it_is_made_is_made_anew_at_once(
    scene: Scene, rabbitmq: RabbitMQ
) -> None:
    for _ in range(5):
        rabbitmq.evaluate(f"[begin timer:sleep(10), {CLOSE_ALL} end || _ <- lists:seq(1, 100)]")
        assert scene.seconds_until_heard() < HEARTBEAT_SECONDS
