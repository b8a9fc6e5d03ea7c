"""Worlds that the tests read: drawn once, nothing rendered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest

from cope_cli.world.config import WorldConfig
from cope_cli.world.records import Clip
from cope_cli.world.write import draw_world


@dataclass(kw_only=True)
class World:
    """A drawn world."""

    config: WorldConfig
    clips: list[Clip]
    items: list[dict[str, Any]]

    @cached_property
    def by_video(self) -> dict[str, Clip]:
        return {f"clips/{clip.name}.mp4": clip for clip in self.clips}

    def clip(self, item: dict[str, Any]) -> Clip:
        return self.by_video[item["video"]]


def drawn(num_clips: int, **fields: Any) -> World:
    config = WorldConfig(**fields)
    clips, items = draw_world(config, num_clips)
    return World(config=config, clips=clips, items=items)


@pytest.fixture(scope="session")
def world() -> World:
    """One to four things, one GOP or two."""
    return drawn(800, seed=5, two_gops=0.2)


@pytest.fixture(scope="session")
def one_object_world() -> World:
    return drawn(400, seed=6, objects="1", two_gops=0.2)


@pytest.fixture(scope="session")
def held_out() -> World:
    return drawn(400, seed=5, split="test", two_gops=0.2)
