"""Defects that the fuzzer and the tests here found, each held by its smallest case."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import pictures, write_video
from rights import read_only, run_without_rights
from running import encode

import cope_cli
from cope_cli.cache.frames import Frames
from cope_cli.codec.source import _to_the_end
from cope_cli.errors import CacheCorruptError, VideoError


def test_a_codec_that_ffmpeg_does_not_know_is_a_video_error(tmp_path: Path):
    video = write_video(tmp_path / "a.mkv", pictures(5), codec="mpeg4")
    video.write_bytes(video.read_bytes().replace(b"V_MPEG4/ISO/ASP", b"V_XXXXX/ISO/ASP"))
    assert type(encode([video], tmp_path / "cache")["a.mkv"]) is VideoError


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv", "flv"])
def test_a_sound_video_with_a_latin_1_tag_is_encoded(tmp_path: Path, suffix: str):
    video = write_video(tmp_path / f"a.{suffix}", pictures(5), codec="flv" if suffix == "flv" else "mpeg4")
    video.write_bytes(video.read_bytes().replace(b"Lavf", b"L\xe9vf"))
    assert encode([video], tmp_path / "cache")[video.name] is None


def test_metadata_damaged_after_opening_is_never_believed(filled_cache):
    frames = Frames(filled_cache.cache.primitives_entry(filled_cache.primitives), 32)
    path = filled_cache.group / "frames" / "32" / "part-0" / "rgb" / "zarr.json"
    path.write_bytes(path.read_bytes().replace(b"32", b"72", 1))  # one bit: the pictures become 72 rows high
    try:
        picture = frames.rgb(0)
    except CacheCorruptError:
        return
    assert picture.shape == (32, 32, 3)


def test_a_read_only_installation_without_a_home_works(shared_cache, tmp_path: Path):
    """As in a container that runs as another user than the one who installed it."""
    package, home = tmp_path / "site" / "cope_cli", tmp_path / "home"
    shutil.copytree(Path(cope_cli.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    home.mkdir()
    environment = {"PYTHONPATH": str(package.parent), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    command = [sys.executable, "-m", "cope_cli", "cache", "ls", "--cache", str(shared_cache.root)]
    with read_only(package.parent), read_only(home):
        done = run_without_rights(command, environment)
    assert done.returncode == 0, done.stderr[-300:]


def test_a_stream_that_begins_half_way_does_not_end_the_video(tmp_path: Path):
    """PyAV may raise IndexError when it flushes a stream that was not there when the file was opened."""
    first = write_video(tmp_path / "first.ts", pictures(200, width=160, height=96), options={"crf": "1"})
    second = tmp_path / "second.ts"
    with av.open(str(second), "w") as container:
        video = container.add_stream("libx264", rate=30)
        sound = container.add_stream("mp2", rate=48000, layout="mono")
        video.width, video.height, video.pix_fmt = 160, 96, "yuv420p"
        for index, picture in enumerate(pictures(30, width=160, height=96)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts = index
            container.mux(video.encode(frame))
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            samples.sample_rate, samples.pts = 48000, 1152 * index
            container.mux(sound.encode(samples))
        container.mux(video.encode(None))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    assert encode([joined], tmp_path / "cache")["joined.ts"] is None


def test_an_index_error_after_the_last_frame_is_the_end():
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise IndexError("list index out of range")

    assert list(_to_the_end(items())) == [1, 2]
