"""A cache of two sample clips on a grid of 32, a data file, and quick settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cope_cli.cache.store import Cache
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest
from cope_cli.train.finetune.config import FinetuneConfig
from cope_cli.train.pretrain.config import PretrainConfig

SAMPLES = Path(__file__).parents[2] / "sample_videos"
GRID_PX = 32
#: Input size of the small model's vision encoder.
SIZE_PX = 112


class Killed(Exception):
    """Raised in the middle of a run, in place of a kill."""


def fill(cache: Cache, names: list[str], *, grid_px: int = GRID_PX, gop: int = 240) -> None:
    """Encode and extract sample clips; only the I-frames are stored as RGB, so that training must add the rest."""
    for name in names:
        config = EncodeConfig(short_side_px=128, gop_frames=gop)
        encoded = encode_video(SAMPLES / f"{name}.mp4", cache, config)
        frames = FramesRequest(size_px=SIZE_PX, keyframes_per_gop=1)
        extract_video(encoded.name, cache, ExtractConfig(grid_px=grid_px), frames=frames)


def write_qa(path: Path, ids: list[str]) -> Path:
    """Write the items of the sample file that have these ids."""
    items = {item["id"]: item for item in json.loads((SAMPLES / "qa.json").read_text())}
    path.write_text(json.dumps([items[name] for name in ids]))
    return path


def pretrain_config(**changes: Any) -> PretrainConfig:
    values = {"grid_px": GRID_PX, "batch_size": 3, "steps": 6, "save_steps": 100, "device": "cpu", "held_out": 0.0}
    return PretrainConfig(**{**values, **changes})


def finetune_config(data: Path, **changes: Any) -> FinetuneConfig:
    values = {"data": data, "grid_px": GRID_PX, "batch_size": 2, "steps": 6, "save_steps": 100, "device": "cpu"}
    return FinetuneConfig(**{**values, "keyframes": 1, **changes})


def losses(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The logged lines without their times."""
    return [{name: value for name, value in line.items() if "seconds" not in name} for line in metrics]


def kill_at(step: int) -> Any:
    def on_progress(done: int, total: int, values: Mapping[str, float]) -> None:
        if done == step:
            raise Killed

    return on_progress
