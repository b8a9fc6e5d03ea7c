"""Small videos for the reliability tests, and the way to the tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_videos import pictures, write_video


@pytest.fixture(scope="session")
def short_videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two videos of 1.5 s, 96x64, different pans."""
    folder = tmp_path_factory.mktemp("short")
    return [
        write_video(folder / f"short-{x_px}.mp4", pictures(45, x_px=x_px), options={"crf": "20", "g": "15"})
        for x_px in (1, 2)
    ]


def repeated(source: Path, name: str, seconds: float) -> Path:
    from tools.kill_scenarios import repeat, shrink

    return repeat(shrink(source, source.with_name(f"small-{name}")), source.with_name(name), seconds)


@pytest.fixture(scope="session")
def long_video(short_videos: list[Path]) -> Path:
    """A video of 45 s, 64x48: long enough to be encoded in parts."""
    return repeated(short_videos[1], "long.mp4", 45)


@pytest.fixture(scope="session")
def very_long_video(short_videos: list[Path]) -> Path:
    """A video of 210 s, 64x48: long enough to be extracted in parts."""
    return repeated(short_videos[1], "very-long.mp4", 210)
