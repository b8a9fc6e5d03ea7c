"""Long footage of several sizes for benchmarks: clips joined, repeated and scaled, as H.264.

    python tools/footage.py VIDEOS... --out DIR --heights 360 720 1080 --seconds 64

Covered: any video FFmpeg decodes; pictures are scaled to a 16:9 frame of the given height. Not covered: sound.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import av


def _frames(videos: list[Path], num: int) -> Iterator[av.VideoFrame]:
    """Yield `num` frames of the videos in turn, again and again."""
    count = 0
    for video in itertools.cycle(videos):
        with av.open(str(video)) as container:
            for frame in container.decode(container.streams.video[0]):
                yield frame
                count += 1
                if count == num:
                    return


def write_footage(videos: list[Path], path: Path, height_px: int, seconds: float, fps: int = 30) -> None:
    """Write `seconds` of the videos at 16:9 and `height_px`; sources of any rate are played at `fps`."""
    width_px = round(height_px * 16 / 9 / 2) * 2
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        for index, frame in enumerate(_frames(videos, round(seconds * fps))):
            scaled = frame.reformat(width=width_px, height=height_px, format="yuv420p")
            scaled.pts, scaled.time_base, scaled.pict_type = index, 1 / stream.average_rate, 0
            container.mux(stream.encode(scaled))
        container.mux(stream.encode(None))


def main() -> None:
    """Write one file a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heights", nargs="+", type=int, default=[360, 720, 1080])
    parser.add_argument("--seconds", type=float, default=64)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for height in arguments.heights:
        path = arguments.out / f"footage_{height}p.mp4"
        write_footage(arguments.videos, path, height, arguments.seconds)
        print(path)


if __name__ == "__main__":
    main()
