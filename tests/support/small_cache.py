"""Sample clips, encoded and extracted for real on a small grid."""

from __future__ import annotations

from pathlib import Path

from cope_cli.cache.store import Cache
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest

SAMPLES = Path(__file__).parents[2] / "sample_videos"
GRID_PX = 32
SIZE_PX = 16


def add_to_cache(cache: Cache, source: Path, *, fusion: int = 30, gop: int = 120, all_frames: bool = True) -> str:
    """Encode and extract one clip; returns the primitives entry's name."""
    encoded = encode_video(source, cache, EncodeConfig(short_side_px=64, gop_frames=gop))
    frames = FramesRequest(size_px=SIZE_PX, keyframes_per_gop=0 if all_frames else 1)
    config = ExtractConfig(fusion_frames=fusion, grid_px=GRID_PX)
    return extract_video(encoded.name, cache, config, frames=frames).name
