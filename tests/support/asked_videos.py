"""Where the videos are that tests ask about."""

from pathlib import Path

SAMPLES = Path(__file__).parents[2] / "sample_videos"
