"""Videos from Python: frames as PyAV decodes them, known motion with its sign, and indices like those of a sequence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from known_scenes import render
from made_videos import pan_scene

import cope_cli as cope
from cope_cli.codec.clips import write_h264
from cope_cli.codec.colour import Colour
from cope_cli.codec.mpeg4.stream import frame_picture
from cope_cli.errors import CacheCorruptError, EntryNotFoundError, PathNotFoundError, UsageError
from cope_cli.video import Video

SAMPLES = Path(__file__).parents[1] / "sample_videos"
#: The camera of the rendered clip moves by this many pixels per frame, so the picture moves the other way.
PAN_PX = (2, -1)


@pytest.fixture(scope="module")
def pan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pan") / "pan.mp4"
    write_h264(render(pan_scene(75, width=320, height=192, x_px=PAN_PX[0], y_px=PAN_PX[1])), path, fps=30, crf=12)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def video(pan: Path, root: Path) -> Video:
    """Three GOPs of 30 frames with windows of 10: slots at frames 0, 10, 20, 30, ... 70."""
    return cope.open(pan, fusion=10, grid=64, gop=30, short_side=0, cache=root)


def test_frames_are_those_that_pyav_decodes(video: Video) -> None:
    entry = video.store.encoded_entry(video.primitives.entry.encoded_name)
    with av.open(str(entry.video)) as container:
        container.streams.video[0].codec_context.options = {"flags": "+bitexact", "idct": "simpleauto"}
        decoded = dict(enumerate(container.decode(video=0)))
    assert len(video) == 8
    for index, number in enumerate(range(0, 80, 10)):
        frame = decoded[number]
        colour = Colour.from_ffmpeg(frame.colorspace, frame.color_range)
        assert np.array_equal(video.frame(index), frame_picture(frame).to_grid(64, colour))
        nearest = frame.to_ndarray(format="rgb24").astype(int)[1::3, 2::5]  # centres of the grid's cells
        assert np.abs(video.frame(index) - nearest).mean() < 6


@pytest.mark.parametrize("direct", [False, True])
def test_warp_plus_residual_is_the_decoded_frame(pan: Path, root: Path, direct: bool) -> None:
    settings = {} if direct else {"short_side": 0}
    video = cope.open(pan, fusion=10, grid=64, gop=30, direct=direct, cache=root, **settings)
    assert len(video) == 8
    for index in range(len(video)):
        assert np.array_equal(video.reconstruct(index), video.frame(index))


def test_motion_is_the_known_pan_in_every_unit(video: Video) -> None:
    for index in (1, 2, 4):
        slot = video[index]
        middle = (slice(None), slice(16, 48), slice(16, 48))
        found = {name: np.median(getattr(slot, name)[middle], axis=(1, 2)) for name in ("motion", "motion_px")}
        expected = -10 * np.array(PAN_PX, float)
        assert np.allclose(found["motion_px"], expected, atol=0.5)
        assert np.allclose(found["motion"], 2 * expected, atol=1)
        per_px = np.array([64 / 320, 64 / 192])[:, None, None]
        assert np.allclose(slot.motion_grid, slot.motion_px * per_px)
        assert (slot.motion.dtype, slot.motion_px.dtype, slot.motion_grid.dtype) == (np.int16, np.float32, np.float32)


def test_a_fresh_process_finds_the_signs_of_a_pan(tmp_path: Path) -> None:
    """The sample clip's camera pans to the right, then back: what it sees moves to the left, then to the right."""
    code = (
        "import cope_cli as cope; from statistics import median; "
        f"video = cope.open({str(SAMPLES / 'camera_pan.mp4')!r}, grid=64, cache={str(tmp_path)!r}); "
        "print(*(median(video[slot].motion_px[0].ravel().tolist()) for slot in (3, 9)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    forth_px, back_px = map(float, done.stdout.split())
    assert forth_px < -30
    assert back_px > 30


def test_an_iframe_slot_has_a_frame_and_nothing_else(video: Video) -> None:
    assert [slot.is_iframe for slot in video] == [True, False, False, True, False, False, True, False]
    assert video[3].motion is video[3].motion_px is video[3].motion_grid is video[3].residual is None
    assert video[3].frame.shape == (64, 64, 3)
    assert not video.motion[3].any()


def test_slots_are_indexed_like_a_list(video: Video) -> None:
    assert (video[-1].index, video[-8].index) == (7, 0)
    part = video[2:8:2]
    assert [slot.index for slot in part] == [2, 4, 6]
    assert part[1:][0].index == part[-2].index == 4
    assert np.array_equal(part.motion[1], video[4].motion)
    assert np.array_equal(part.residual[1], video[4].residual)
    assert np.array_equal(part.reconstruct(1), video.reconstruct(4))
    assert [[slot.index for slot in batch] for batch in video.batches(3)] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    for index in (8, -9):
        with pytest.raises(IndexError, match=r"slot -?[89]: expected -8 to 7"):
            video[index]
    with pytest.raises(IndexError, match="there are no slots"):
        video[8:][0]


def test_a_time_gives_the_slot_that_is_shown_then(video: Video) -> None:
    assert video.seconds.tolist() == pytest.approx([index / 3 for index in range(8)])
    assert [video.at(seconds=seconds).index for seconds in (0, 0.33, 0.34, 1.2, 2.5)] == [0, 0, 1, 3, 7]
    assert video[4:].at(seconds=1.5).index == 4
    for seconds in (-0.1, 2.6):
        with pytest.raises(IndexError, match=r"expected 0.00 to 2.50 s"):
            video.at(seconds=seconds)
    with pytest.raises(IndexError, match=r"expected 1.33 to"):
        video[4:].at(seconds=1.0)


def test_arrays_cannot_be_written_to(video: Video) -> None:
    slot = video[1]
    arrays = [slot.motion, slot.motion_px, slot.motion_grid, slot.residual, slot.frame, video.motion, video.residual]
    for array in (*arrays, video.reconstruct(1), video.seconds, video.is_iframe):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_representations_name_shapes_and_units(video: Video) -> None:
    assert repr(video) == (
        f"Video('{video.name}': 8 slots (3 I-frame, 5 P-frame), 2.50 s, 320x192 px, fusion 10, grid 64, re-encoded)"
    )
    assert "a part of 8 slots" in repr(video[:2])
    assert repr(video[1]) == (
        f"Slot(1 of {video.name}, 0.33 s, GOP 0, P-frame, motion int16 (2, 64, 64), residual int16 (64, 64, 3))"
    )


def test_opening_finds_what_is_there_and_makes_what_is_not(pan: Path, root: Path, video: Video, monkeypatch) -> None:
    same = cope.open(str(pan), fusion=10, grid=64, gop=30, short_side=0, cache=str(root))
    assert same.name == video.name
    monkeypatch.setenv("HOME", str(pan.parent))
    monkeypatch.setenv("COPE_CACHE", str(root))
    assert cope.open("~/pan.mp4", fusion=10, grid=64, gop=30, short_side=0).name == video.name
    assert cope.open(video.name).name == video.name
    wider = cope.open(pan, fusion="auto:10", grid=32, gop=30, short_side=0)
    assert (wider.fusion, wider.grid) == ("auto:10", 32)
    assert cope.open("pan", fusion=10, grid=64).name == video.name
    with pytest.raises(UsageError, match="does not use fps, quality"):
        cope.open(pan, direct=True, quality=3, fps=25)
    with pytest.raises(PathNotFoundError, match=r"pann: no such file; .*similar names: pan"):
        cope.open("pann")


def test_a_cache_is_a_mapping_from_names_to_videos(video: Video, root: Path, tmp_path: Path) -> None:
    cache = cope.Cache(root)
    assert video.name in cache
    assert "pann" not in cache
    assert video.name in list(cache)
    assert len(cache) == len(list(cache)) >= 1
    assert cache[video.name].seconds.tolist() == video.seconds.tolist()
    assert repr(cache) == f"Cache({str(root)!r}: {len(cache)} extracted videos)"
    with pytest.raises(KeyError, match=r"no extracted video 'pann'; similar names: pan") as error:
        cache["pann"]
    assert isinstance(error.value, cope.CopeError)
    with pytest.raises(EntryNotFoundError, match="it holds nothing"):
        cope.Cache(tmp_path)["pan"]


def test_several_entries_of_a_name_are_listed(pan: Path, tmp_path: Path) -> None:
    for fusion in (10, 30):
        cope.open(pan, fusion=fusion, grid=32, cache=tmp_path)
    with pytest.raises(UsageError, match=r"expected one entry, found 2: .*fusion 30, grid 32, re-encoded"):
        cope.Cache(tmp_path)["pan"]
    assert cope.open("pan", fusion=10, grid=32, cache=tmp_path).fusion == "10"


def test_a_frame_needs_the_encoded_video_and_a_reconstruction_does_not(pan: Path, tmp_path: Path) -> None:
    video = cope.open(pan, grid=32, cache=tmp_path)
    for path in (tmp_path / "encoded").iterdir():
        path.unlink()
    assert video.reconstruct(1).shape == (32, 32, 3)
    with pytest.raises(EntryNotFoundError, match="cannot decode the picture of a slot"):
        video.frame(1)
    shard = next((video.primitives.entry.folder / "residual").glob("c*"))
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(CacheCorruptError):
        cope.Cache(tmp_path)["pan"].reconstruct(1)
