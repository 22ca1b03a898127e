"""A worker is never deaf: whatever ends its link to Redis, messages are heard again within seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.disconnects import IN_CI, IN_FULL, Scene, disconnect_again_and_again, scene_on

from gnomon.embedded.valkey import EmbeddedValkey


@pytest.fixture
def scene(valkey: EmbeddedValkey, redis_url: str, tmp_path: Path) -> Iterator[Scene]:
    with scene_on(valkey, redis_url, tmp_path) as scene:
        yield scene


def test_messages_are_heard_again_after_each_disconnect(scene: Scene) -> None:
    disconnect_again_and_again(scene, of_each_kind=IN_CI)


@pytest.mark.long
def test_messages_are_heard_again_after_each_of_two_hundred_disconnects(scene: Scene) -> None:
    disconnect_again_and_again(scene, of_each_kind=IN_FULL)
