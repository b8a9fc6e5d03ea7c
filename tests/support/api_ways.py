"""A video that cannot be read directly."""

from pathlib import Path

from made_videos import pictures, write_video


def write_hevc(path: Path) -> Path:
    """Write half a second of HEVC."""
    return write_video(path, pictures(15), codec="libx265", options={"x265-params": "log-level=none"})
