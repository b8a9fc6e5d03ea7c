"""Fixtures shared by all tests: a small finished cache, and the real footage where it is there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from known_scenes import render
from made_videos import pan_scene

from cope_cli.cache.store import Cache
from cope_cli.codec.clips import write_h264
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest

# Tests run in one process per core: torch threads on top of that would wait for one another. Read when torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REAL_VIDEOS = Path(__file__).resolve().parents[1].parent / "shared" / "videos"


@dataclass(frozen=True, kw_only=True)
class FilledCache:
    """A cache that holds one clip, encoded and extracted, and the names of its entries."""

    root: Path
    source: Path
    encoded: str
    primitives: str
    encode_config: EncodeConfig
    extract_config: ExtractConfig

    @property
    def cache(self) -> Cache:
        return Cache(self.root)

    @property
    def video(self) -> Path:
        return self.cache.encoded_folder / f"{self.encoded}.mp4"

    @property
    def group(self) -> Path:
        return self.cache.primitives_folder / f"{self.primitives}.zarr"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not REAL_VIDEOS.is_dir():
        skip = pytest.mark.skip(reason=f"needs the real videos of {REAL_VIDEOS}, which is not there")
        for item in items:
            if "real_footage" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def real_videos() -> Path:
    return REAL_VIDEOS


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source video: 75 frames of 96x64 at 30 FPS, a pan by (2, 0) pixels per frame and a moving disc."""
    path = tmp_path_factory.mktemp("source") / "clip.mp4"
    scene = pan_scene(75, width=96, height=64, x_px=2, with_shape=True)
    write_h264(render(scene), path, fps=30, crf=12)
    return path


@pytest.fixture(scope="session")
def shared_cache(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> FilledCache:
    """The clip with GOPs of 30 frames, windows of 10, grid 32 and RGB slots of 32 px: for tests that only read."""
    root = tmp_path_factory.mktemp("cache")
    encode_config = EncodeConfig(gop_frames=30)
    extract_config = ExtractConfig(fusion_frames=10, grid_px=32)
    encoded = encode_video(clip, Cache(root), encode_config)
    frames = FramesRequest(size_px=32, keyframes_per_gop=2)
    primitives = extract_video(encoded.name, Cache(root), extract_config, frames=frames)
    return FilledCache(
        root=root,
        source=clip,
        encoded=encoded.name,
        primitives=primitives.name,
        encode_config=encode_config,
        extract_config=extract_config,
    )


@pytest.fixture
def filled_cache(shared_cache: FilledCache, tmp_path: Path) -> FilledCache:
    """A copy of it that a test may damage."""
    root = tmp_path / "cache"
    shutil.copytree(shared_cache.root, root)
    return replace(shared_cache, root=root)
