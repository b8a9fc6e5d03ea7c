"""Pictures written as an H.264 clip: counts, colours and tags; nothing is left behind if writing fails."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import pictures

from cope_cli.codec.clips import write_h264
from cope_cli.errors import StorageError


def test_a_clip_keeps_count_rate_colour_and_tags(tmp_path: Path):
    colours = np.array([[214, 48, 44], [46, 170, 84], [48, 104, 222], [255, 255, 255]], dtype=np.uint8)
    picture = np.repeat(colours, 32, axis=0)[None].repeat(64, axis=0)
    write_h264([picture] * 7, tmp_path / "new" / "clip.mp4", fps=25, crf=4)
    with av.open(str(tmp_path / "new" / "clip.mp4")) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert (stream.codec_context.name, stream.average_rate, len(frames)) == ("h264", 25, 7)
    tags = (frames[0].colorspace, frames[0].color_primaries, frames[0].color_trc, frames[0].color_range)
    assert tags == (6, 6, 6, 1)  # FFmpeg's numbers: SMPTE 170M three times, limited range
    decoded = frames[3].to_ndarray(format="rgb24")
    assert np.abs(decoded[32, 16::32].astype(int) - colours).max() <= 4
    luma = frames[3].to_ndarray()[32, 16:128:32].astype(float)
    expected = 16 + colours @ np.array([65.481, 128.553, 24.966]) / 255  # BT.601, limited range
    assert luma == pytest.approx(expected, abs=1.5)


def test_the_same_frames_give_the_same_file(tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        write_h264(pictures(9), tmp_path / name, fps=30, crf=18)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_broken_off_clip_leaves_nothing_behind(tmp_path: Path):
    def broken():
        yield np.zeros((32, 32, 3), np.uint8)
        yield np.zeros((32, 34, 3), np.uint8)

    with pytest.raises(ValueError, match="frame 1 is"):
        write_h264(broken(), tmp_path / "clip.mp4", fps=30, crf=18)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "fps", "crf"),
    [
        ([], 30, 18),
        ([np.zeros((31, 32, 3), np.uint8)], 30, 18),
        ([np.zeros((32, 32), np.uint8)], 30, 18),
        ([np.zeros((32, 32, 3), np.float32)], 30, 18),
        ([np.zeros((32, 32, 3), np.uint8)], 0, 18),
        ([np.zeros((32, 32, 3), np.uint8)], 30, 52),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, frames: list[np.ndarray], fps: int, crf: int):
    with pytest.raises(ValueError):
        write_h264(frames, tmp_path / "clip.mp4", fps=fps, crf=crf)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"clip\.mp4"):
        write_h264([np.zeros((32, 32, 3), np.uint8)], tmp_path / "file" / "clip.mp4", fps=30, crf=18)
