"""Worlds that tests read: drawn, with nothing rendered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
