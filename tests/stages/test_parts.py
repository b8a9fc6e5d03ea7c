"""A long video worked on in parts gives the bytes of one worked on as a whole, and what cannot be cut is not."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import pytest
from made_videos import pictures, write_video

from cope_cli.cache.parts import read_part, write_part
from cope_cli.codec.gop import Slot
from cope_cli.codec.mpeg4 import transcode as transcode_module
from cope_cli.codec.mpeg4.split import SourcePart, plan_parts
from cope_cli.config import EncodeConfig
from cope_cli.errors import WorkerDiedError
from cope_cli.stages import encode, extract
from cope_cli.stages.batch import wide_items

CONFIG = EncodeConfig(gop_frames=12, short_side_px=32)
NUM_FRAMES = 100


def write_irregular(path: Path) -> Path:
    """H.264 with B-frames, a keyframe every 10 frames, and times that are not evenly spaced."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10", "bf": "2", "x264-params": "scenecut=0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        pts = 200
        for index, picture in enumerate(pictures(NUM_FRAMES)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            pts += 17 if index % 3 else 61
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


SOURCES: dict[str, Callable[[Path], Path]] = {
    "mpeg4.mp4": lambda path: write_video(path, pictures(NUM_FRAMES), codec="mpeg4", fps=30, options={"g": "10"}),
    "25fps.mkv": lambda path: write_video(path, pictures(NUM_FRAMES), codec="libx264", fps=25, options={"g": "9"}),
    "ntsc.mov": lambda path: write_video(
        path, pictures(NUM_FRAMES), codec="mjpeg", fps=Fraction(30000, 1001), pix_fmt="yuvj420p"
    ),
    "mpeg4.avi": lambda path: write_video(path, pictures(NUM_FRAMES), codec="mpeg4", options={"g": "9"}),
    "irregular.mp4": write_irregular,
    "irregular.mkv": write_irregular,
    "slow.mp4": lambda path: write_video(path, pictures(60), codec="libx264", fps=8, options={"g": "5"}),
    "fast.mp4": lambda path: write_video(path, pictures(NUM_FRAMES), codec="libx264", fps=60, options={"g": "5"}),
}


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "MIN_PART_FRAMES", 12)
    monkeypatch.setattr(extract, "MIN_PARALLEL_FRAMES", 12)


@pytest.mark.parametrize("name", SOURCES)
def test_parts_join_to_the_bytes_of_the_whole(tmp_path: Path, name: str):
    source = SOURCES[name](tmp_path / name)
    whole, joined = tmp_path / "whole.mp4", tmp_path / "joined.mp4"
    info = transcode_module.transcode(source, whole, CONFIG)
    parts = plan_parts(source, CONFIG, 2, min_frames=12)
    assert len(parts) > 1
    assert [part.start_frame % CONFIG.gop_frames for part in parts] == [0] * len(parts)

    made = []
    for number, part in enumerate(parts):
        path = tmp_path / f"{number}.mp4"
        made.append((path, transcode_module.transcode_part(source, path, CONFIG, part, on_progress=lambda *_: None)))
    assert transcode_module.join_parts(made, joined, CONFIG) == info
    assert joined.read_bytes() == whole.read_bytes()


def test_a_source_without_enough_keyframes_is_not_cut(tmp_path: Path):
    source = write_video(tmp_path / "a.mp4", pictures(NUM_FRAMES), codec="mpeg4", fps=30, options={"g": "600"})
    assert plan_parts(source, CONFIG, 4, min_frames=12) == []


def test_a_short_source_is_not_cut(tmp_path: Path):
    source = SOURCES["mpeg4.mp4"](tmp_path / "a.mp4")
    assert plan_parts(source, CONFIG, 4, min_frames=60) == []
    assert plan_parts(source, EncodeConfig(gop_frames=60), 4, min_frames=1) == []


def test_a_source_without_timestamps_is_not_cut(tmp_path: Path):
    source = write_video(tmp_path / "a.h264", pictures(NUM_FRAMES), options={"g": "9"})
    assert plan_parts(source, CONFIG, 4, min_frames=12) == []


def test_joined_recordings_are_not_cut(tmp_path: Path):
    parts = [write_video(tmp_path / f"{n}.mpg", pictures(40), codec="mpeg2video", fps=30) for n in range(2)]
    source = tmp_path / "both.mpg"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert plan_parts(source, CONFIG, 4, min_frames=12) == []


def encoded(source: Path, folder: Path, workers: int) -> bytes:
    folder.mkdir()
    encode._transcode(source, folder / "a.mp4", CONFIG, workers, lambda *_: None)
    assert [path.name for path in folder.iterdir()] == ["a.mp4"]
    return (folder / "a.mp4").read_bytes()


def test_a_part_that_began_elsewhere_is_found_and_the_video_made_as_a_whole(tmp_path: Path, monkeypatch):
    source = SOURCES["25fps.mkv"](tmp_path / "a.mkv")
    whole = encoded(source, tmp_path / "one", 1)

    def shifted(*args: object, **options: object) -> list[SourcePart]:
        first, second, *rest = plan_parts(*args, **options)  # type: ignore[arg-type]
        wrong = SourcePart(**{**vars(second), "start_pts": second.start_pts - 40})
        return [first, wrong, *rest]

    monkeypatch.setattr(encode, "plan_parts", shifted)
    assert encoded(source, tmp_path / "two", 2) == whole


def test_a_worker_that_dies_over_a_part_fails_the_video(tmp_path: Path, monkeypatch):
    source = SOURCES["25fps.mkv"](tmp_path / "a.mkv")
    monkeypatch.setattr(encode, "_encode_part", partial(die))
    with pytest.raises(WorkerDiedError):
        encoded(source, tmp_path / "two", 2)


def die(*_: object, **__: object) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize("num", [1, 2, 3, 5, 50])
def test_jobs_are_cut_into_whole_gops(num: int):
    slots = [Slot(frame=12 * gop + 6 * k, gop=gop, window_frames=6 * k) for gop in range(7) for k in range(2)]
    job = extract._Job(
        video=Path("a.mp4"),
        slots=slots,
        config=extract.ExtractConfig(),
        rgb_frames=frozenset(),
        rgb_size_px=0,
        fps=30,
        num_frames=84,
    )
    parts = extract._parts_of(job, num)
    assert len(parts) == min(num, 7)
    assert [slot for part in parts for slot in part.slots] == slots
    assert all(part.slots[0].is_iframe for part in parts)
    lengths = [len(part.slots) for part in parts]
    assert max(lengths) - min(lengths) <= 2


def test_part_files_give_back_their_chunks(tmp_path: Path):
    slots = [{"grid_iframe": b"abc", "rgb": b""}, {"motion": b"\0" * 100, "residual": b"x"}]
    write_part(tmp_path / "part", slots)
    assert list(read_part(tmp_path / "part")) == [
        {"grid_iframe": b"abc"},
        {"rgb": b""},
        *({k: v} for k, v in slots[1].items()),
    ]


@pytest.mark.parametrize(
    ("weights", "workers", "wide"),
    [
        ({"a": 1.0}, 2, ["a"]),
        ({"a": 1.0}, 1, []),
        ({"a": 1.0, "b": 1.0}, 2, []),
        ({"a": 3.1, "b": 1.0}, 2, ["a"]),
        ({"a": 1.0, "b": 1.0}, 4, ["a", "b"]),
        ({"a": 1.0, "b": 0.1}, 2, ["a"]),
        ({"a": 0.4, "b": 0.01}, 2, []),
        ({}, 4, []),
        ({"a": 0.0}, 4, ["a"]),
    ],
)
def test_only_what_outweighs_the_others_is_shared_out(weights: dict[str, float], workers: int, wide: list[str]):
    assert wide_items(weights, workers, 0.5) == wide
