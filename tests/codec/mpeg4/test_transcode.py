"""Every kind of source becomes the stream that was asked for."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_scenes import render
from made_videos import (
    cut_scene,
    decode_rgb,
    picture_types,
    pictures,
    psnr,
    set_display_matrix,
    show_turned,
    write_audio,
    write_streams,
    write_video,
)

from cope_cli.codec.clips import write_h264
from cope_cli.codec.fusion import FrameSize
from cope_cli.codec.mpeg4.stream import read_frames, read_gop_spans
from cope_cli.codec.mpeg4.transcode import TranscodeInfo, fit_short_side, transcode
from cope_cli.config import EncodeConfig
from cope_cli.errors import StorageError, UsageError, VideoError

BEST = EncodeConfig(quality=2)


def encoded(source: Path, config: EncodeConfig = BEST) -> tuple[TranscodeInfo, Path]:
    target = source.with_name(f"{source.stem}-encoded.mp4")
    return transcode(source, target, config), target


def same_picture(a: np.ndarray, b: np.ndarray) -> bool:
    """Apart from coding noise."""
    return a.shape == b.shape and psnr(a, b) > 30


# The stream's structure


@pytest.mark.parametrize("gop", [1, 2, 12, 30, 240])
def test_gops_are_exactly_as_long_as_asked_also_across_hard_cuts(tmp_path: Path, gop: int):
    source = tmp_path / "cuts.mp4"
    write_h264(render(cut_scene(10, 10, 25, 21)), source, fps=30, crf=18)
    info, video = encoded(source, EncodeConfig(gop_frames=gop))
    assert info.num_frames == 66
    assert picture_types(video) == "".join("P" if frame % gop else "I" for frame in range(66))


def test_the_source_really_has_iframes_at_its_cuts(tmp_path: Path):
    """Or the test above would prove nothing about the source's picture types."""
    source = write_video(tmp_path / "cuts.mp4", render(cut_scene(10, 10, 25, 21)), options={"preset": "medium"})
    assert {index for index, kind in enumerate(picture_types(source)) if kind == "I"} >= {0, 10, 20, 45}
    _, video = encoded(source)
    assert picture_types(video) == "I" + 65 * "P"


def test_a_source_with_bframes_loses_them(tmp_path: Path):
    source = write_video(tmp_path / "b.mp4", pictures(40), options={"preset": "medium", "bf": "3", "b-adapt": "0"})
    assert "B" in picture_types(source)
    _, video = encoded(source)
    assert picture_types(video) == "I" + 39 * "P"


def test_what_is_written_is_plain_mpeg4_without_sound(tmp_path: Path):
    _, video = encoded(write_video(tmp_path / "a.mp4", pictures(5)))
    with av.open(str(video)) as container:
        (stream,) = container.streams
        frames = list(container.decode(stream))
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("mpeg4", "yuv420p")
        assert stream.average_rate == 30
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(index, 30) for index in range(5)]


def test_the_same_source_gives_the_same_bytes(tmp_path: Path):
    source = write_video(tmp_path / "a.mp4", pictures(20))
    one, other = tmp_path / "one.mp4", tmp_path / "other.mp4"
    transcode(source, one, EncodeConfig(short_side_px=48))
    transcode(source, other, EncodeConfig(short_side_px=48))
    assert one.read_bytes() == other.read_bytes()


def test_a_lower_quality_value_costs_bytes_and_gives_a_better_picture(tmp_path: Path):
    frames = pictures(12)
    source = write_video(tmp_path / "a.mp4", frames, options={"crf": "0", "preset": "ultrafast"})
    sizes, qualities = [], []
    for quality in (2, 4, 8, 16, 31):
        _, video = encoded(source, EncodeConfig(quality=quality))
        sizes.append(video.stat().st_size)
        qualities.append(np.mean([psnr(a, b) for a, b in zip(frames, decode_rgb(video), strict=True)]))
    assert all(a > 1.1 * b for a, b in pairwise(sizes))
    assert all(a > b + 0.5 for a, b in pairwise(qualities))


# Rate


@pytest.mark.parametrize(
    "fps", [Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(5), Fraction(1)]
)
def test_other_rates_become_30_frames_per_second(tmp_path: Path, fps: Fraction):
    num = max(4, int(fps * 2))
    source = write_video(tmp_path / "a.mkv", pictures(num), container="matroska", fps=fps)
    info, video = encoded(source)
    assert info.num_source_frames == num
    assert abs(info.num_frames - num / fps * 30) <= 1
    assert [span.num_frames for span in read_gop_spans(video)] == [info.num_frames]


@pytest.mark.parametrize("fps", [10, 60])
def test_the_rate_can_be_chosen(tmp_path: Path, fps: int):
    source = write_video(tmp_path / "a.mp4", pictures(30))
    info, video = encoded(source, EncodeConfig(fps=fps))
    assert abs(info.num_frames - fps) <= 1
    with av.open(str(video)) as container:
        assert container.streams.video[0].average_rate == fps


def test_frames_of_a_variable_rate_are_shown_at_their_times(tmp_path: Path):
    times_ms = [0, 100, 133, 500, 533, 1000, 1033]
    flat = [np.full((64, 96, 3), 30 * (index + 1), np.uint8) for index in range(len(times_ms))]
    source = write_video(tmp_path / "a.mkv", flat, container="matroska", times_ms=times_ms)
    info, video = encoded(source)
    shown = [round(float(picture.mean()) / 30) - 1 for picture in decode_rgb(video)]
    for frame, index in enumerate(shown):
        seconds = frame / 30
        latest = max(i for i, time in enumerate(times_ms) if time <= seconds * 1000 + 1000 / 60 + 1)
        assert index == latest, f"frame {frame}"
    assert abs(info.num_frames - 32) <= 1


def test_a_source_that_begins_late_begins_at_its_first_frame(tmp_path: Path):
    source = write_video(tmp_path / "a.mkv", pictures(4), container="matroska", times_ms=[5000, 5033, 5067, 5100])
    info, _ = encoded(source)
    assert info.num_frames == 4
    assert info.source_start_seconds == pytest.approx(5)


@pytest.mark.parametrize("gap_seconds", [700, 5_000_000])
def test_a_gap_that_no_video_has_is_a_broken_timestamp(tmp_path: Path, gap_seconds: int):
    times_ms = [0, 33, 67, 100 + gap_seconds * 1000]
    source = write_video(tmp_path / "a.mkv", pictures(4), container="matroska", times_ms=times_ms)
    with pytest.raises(VideoError, match=r"a\.mkv: frame 3 .*timestamps are broken"):
        encoded(source)


def test_a_long_pause_is_kept(tmp_path: Path):
    source = write_video(tmp_path / "a.mkv", pictures(3), container="matroska", times_ms=[0, 33, 20_000])
    info, _ = encoded(source)
    assert abs(info.num_frames - 601) <= 1


@pytest.mark.parametrize("pause_ms", [0, 3000])
def test_a_recording_that_begins_anew_half_way_follows_what_was_before(tmp_path: Path, pause_ms: int):
    times_ms = [pause_ms + round(index * 1000 / 30) for index in range(60)]
    parts = [write_video(tmp_path / f"{index}.ts", pictures(60), times_ms=times_ms) for index in range(3)]
    source = tmp_path / "joined.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    info, video = encoded(source)
    assert info.num_source_frames == 180
    assert abs(info.num_frames - 180) <= 1
    shown = decode_rgb(video)
    assert same_picture(shown[30], shown[90]) and not same_picture(shown[30], shown[75])


def test_frames_without_timestamps_follow_at_the_nominal_rate(tmp_path: Path):
    for codec, suffix, muxer in (("libx264", "h264", "h264"), ("mpeg4", "m4v", "m4v")):
        frames = pictures(20)
        source = write_video(tmp_path / f"raw.{suffix}", frames, codec=codec, container=muxer, fps=25)
        info, video = encoded(source)
        assert info.num_source_frames == 20
        assert abs(info.num_frames - 24) <= 1
        assert same_picture(decode_rgb(video)[0], frames[0])


# Size and orientation


@given(st.integers(2, 5000), st.integers(2, 5000), st.one_of(st.just(0), st.integers(16, 2200)))
def test_sizes_are_even_never_larger_and_keep_their_shape(width: int, height: int, short_side: int):
    size = fit_short_side(FrameSize(width=width, height=height), short_side)
    assert size.width % 2 == size.height % 2 == 0
    assert 2 <= size.width <= width and 2 <= size.height <= height
    short = min(width, height)
    assert min(size.width, size.height) <= (min(short, short_side) if short_side else short) + 1
    scale = min(1.0, short_side / short) if short_side else 1.0
    assert abs(size.width - width * scale) <= 2 and abs(size.height - height * scale) <= 2


@pytest.mark.parametrize(
    ("width", "height", "short_side", "expected"),
    [
        (1280, 720, 384, (682, 384)),
        (720, 1280, 384, (384, 682)),
        (320, 180, 384, (320, 180)),
        (1280, 720, 0, (1280, 720)),
        (97, 65, 384, (96, 64)),
        (97, 65, 0, (96, 64)),
    ],
)
def test_sizes_of_known_videos(width: int, height: int, short_side: int, expected: tuple[int, int]):
    size = fit_short_side(FrameSize(width=width, height=height), short_side)
    assert (size.width, size.height) == expected


@pytest.mark.parametrize(("width", "height"), [(97, 65), (64, 120), (31, 17), (2, 2), (1, 40)])
@pytest.mark.parametrize("short_side", [0, 16])
def test_odd_small_and_portrait_sources_work_or_are_refused(tmp_path: Path, width: int, height: int, short_side: int):
    frames = [picture[:height, :width] for picture in pictures(6, width=128, height=128)]
    source = write_video(tmp_path / "a.nut", frames, codec="rawvideo", pix_fmt="yuv444p")
    if min(width, height) < 2:
        with pytest.raises(VideoError, match="1x40"):
            encoded(source)
        return
    info, video = encoded(source, EncodeConfig(short_side_px=short_side, quality=2))
    expected = fit_short_side(FrameSize(width=width, height=height), short_side)
    assert info.size == expected
    shown = decode_rgb(video)
    assert len(shown) == 6
    assert all(picture.shape == (expected.height, expected.width, 3) for picture in shown)


def test_scaling_down_shows_the_same_picture(tmp_path: Path):
    frames = pictures(4, width=192, height=128)
    _, video = encoded(write_video(tmp_path / "a.mp4", frames), EncodeConfig(short_side_px=64, quality=2))
    small = frames[0].reshape(64, 2, 96, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    assert same_picture(decode_rgb(video)[0], small)


ORIENTATIONS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
MIRRORED = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("matrix", ORIENTATIONS + MIRRORED)
@pytest.mark.parametrize("short_side", [0, 32])
def test_turned_and_mirrored_sources_are_set_upright(
    tmp_path: Path, matrix: tuple[int, int, int, int], short_side: int
):
    stored = pictures(3)[0].copy()
    stored[:20, :30] = (220, 30, 30)  # a red corner: which way up it is
    source = write_video(tmp_path / "a.mp4", [stored] * 3)
    set_display_matrix(source, *matrix)
    info, video = encoded(source, EncodeConfig(short_side_px=short_side, quality=2))
    expected = show_turned(stored, *matrix)
    assert info.source_size == FrameSize(width=expected.shape[1], height=expected.shape[0])
    if short_side:
        height, width = expected.shape[:2]
        expected = expected.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    shown = decode_rgb(video)[0]
    assert same_picture(shown, expected)
    with av.open(str(video)) as container:  # and no player turns it a second time
        assert next(container.decode(video=0)).rotation == 0


@pytest.mark.parametrize("pix_fmt", ["yuv422p", "yuv422p10le", "yuv444p"])
def test_turning_works_in_every_chroma_format(tmp_path: Path, pix_fmt: str):
    stored = pictures(1)[0]
    source = write_video(tmp_path / "a.mp4", [stored] * 2, pix_fmt=pix_fmt)
    set_display_matrix(source, 0, 1, -1, 0)
    _, video = encoded(source)
    assert same_picture(decode_rgb(video)[0], show_turned(stored, 0, 1, -1, 0))


@pytest.mark.parametrize("first", [(96, 64), (64, 48)])
@pytest.mark.parametrize("short_side", [0, 32])
def test_a_source_that_changes_its_size_keeps_that_of_its_first_frame(
    tmp_path: Path, first: tuple[int, int], short_side: int
):
    second = (64, 48) if first == (96, 64) else (96, 64)
    parts = []
    for index, (width, height) in enumerate((first, second, first)):
        part = tmp_path / f"{index}.h264"
        frames = pictures(10, width=width, height=height)
        parts.append(write_video(part, frames, container="h264").read_bytes())
    source = tmp_path / "joined.h264"
    source.write_bytes(b"".join(parts))
    info, video = encoded(source, EncodeConfig(short_side_px=short_side, fps=25))
    size = fit_short_side(FrameSize(width=first[0], height=first[1]), short_side)
    assert info.num_size_changes == 2
    assert info.size == size
    shown = decode_rgb(video)
    assert info.num_source_frames == 30 and abs(len(shown) - 30) <= 1
    assert all(picture.shape == (size.height, size.width, 3) for picture in shown)


# Colour


def test_ten_bit_sources_become_eight_bit(tmp_path: Path):
    frames = pictures(4)
    _, video = encoded(write_video(tmp_path / "a.mp4", frames, pix_fmt="yuv420p10le"))
    assert same_picture(decode_rgb(video)[0], frames[0])


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_full_range_becomes_limited_range(tmp_path: Path, codec: str):
    flat = [np.full((64, 96, 3), level, np.uint8) for level in (0, 255)]
    pix_fmt, suffix = ("yuvj420p", "avi") if codec == "mjpeg" else ("yuv420p", "mp4")
    source = write_video(tmp_path / f"a.{suffix}", flat, codec=codec, pix_fmt=pix_fmt, is_full_range=True)
    with av.open(str(source)) as container:
        assert next(container.decode(video=0)).color_range == 2
    _, video = encoded(source)
    frames = list(read_frames(video))
    assert not frames[0].colour.is_full_range
    assert [round(float(frame.picture.luma.mean())) for frame in frames] == [16, 235]
    assert np.abs(frames[0].picture.to_rgb(frames[0].colour).astype(int)).max() <= 2


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [("bt709", "bt709"), ("bt601", "bt601"), ("bt2020", "bt2020"), ("smpte240m", "smpte240m"), (None, "bt601")],
)
def test_the_colour_matrix_reaches_the_reader(tmp_path: Path, matrix: str | None, expected: str):
    frames = pictures(3)
    _, video = encoded(write_video(tmp_path / "a.mp4", frames, matrix=matrix))
    frame = next(read_frames(video))
    assert frame.colour.matrix == expected
    assert same_picture(frame.picture.to_rgb(frame.colour), frames[0])


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"), [("libx264rgb", "rgb24", "mp4"), ("ffv1", "bgr0", "mkv"), ("png", "rgb24", "mov")]
)
def test_rgb_sources_keep_their_colours(tmp_path: Path, codec: str, pix_fmt: str, suffix: str):
    frames = pictures(2)
    source = write_video(tmp_path / f"a.{suffix}", frames, codec=codec, pix_fmt=pix_fmt)
    _, video = encoded(source)
    frame = next(read_frames(video))
    assert same_picture(frame.picture.to_rgb(frame.colour), frames[0])


# What is in a file


def test_the_first_of_two_video_streams_is_taken_unless_told_otherwise(tmp_path: Path):
    first, second = pictures(5), pictures(5, width=64, height=48)
    source = write_streams(tmp_path / "two.mp4", [first, second])
    assert encoded(source)[0].size == FrameSize(width=96, height=64)
    info, video = encoded(source, EncodeConfig(stream=1, quality=2))
    assert info.size == FrameSize(width=64, height=48)
    assert same_picture(decode_rgb(video)[0], second[0])
    with pytest.raises(VideoError, match=r"--stream 2, but the file has 2 video stream"):
        encoded(source, EncodeConfig(stream=2))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "h264"])
def test_a_video_of_one_frame_gives_one_frame(tmp_path: Path, suffix: str):
    frames = pictures(1)
    info, video = encoded(write_video(tmp_path / f"one.{suffix}", frames))
    assert info.num_frames == 1
    assert picture_types(video) == "I"
    assert same_picture(decode_rgb(video)[0], frames[0])


@pytest.mark.parametrize("num", [1, 5])
def test_a_video_of_zero_duration_gives_a_frame(tmp_path: Path, num: int):
    source = write_video(tmp_path / "one.mp4", pictures(num))
    data = source.read_bytes()
    duration = data.index(b"stts") + 16  # the length of each frame
    source.write_bytes(data[:duration] + bytes(4) + data[duration + 4 :])
    info, video = encoded(source)
    assert info.num_frames == len(picture_types(video)) >= 1


# What cannot be used


@pytest.mark.parametrize("has_cover", [False, True])
def test_sound_without_pictures_is_refused(tmp_path: Path, has_cover: bool):
    source = write_audio(tmp_path / "sound.mp4", cover=pictures(1)[0] if has_cover else None)
    with pytest.raises(VideoError, match=r"sound\.mp4: no video stream, only audio$"):
        encoded(source)


def test_an_empty_file_is_refused(tmp_path: Path):
    source = tmp_path / "empty.mp4"
    source.touch()
    with pytest.raises(VideoError, match=r"empty\.mp4: the file is empty"):
        encoded(source)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        encoded(tmp_path / "none.mp4")


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(tmp_path: Path, seed: int):
    source = tmp_path / "noise.mp4"
    source.write_bytes(np.random.default_rng(seed).bytes(50_000))
    with pytest.raises(VideoError, match=r"noise\.mp4: "):
        encoded(source)


def test_a_text_file_is_refused(tmp_path: Path):
    source = tmp_path / "notes.mp4"
    source.write_text("This is no video.\n" * 100)
    with pytest.raises(VideoError, match=r"notes\.mp4: "):
        encoded(source)


@pytest.mark.parametrize("share", [0.0005, 0.1, 0.5, 0.9])
def test_an_mp4_cut_off_before_its_index_is_refused(tmp_path: Path, share: float):
    data = write_video(tmp_path / "whole.mp4", pictures(30)).read_bytes()
    source = tmp_path / "cut.mp4"
    source.write_bytes(data[: max(1, int(share * len(data)))])
    with pytest.raises(VideoError, match=r"cut\.mp4: "):
        encoded(source)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_an_mp4_cut_off_after_its_index_gives_what_is_left_or_an_error(tmp_path: Path, share: float, clip: Path):
    source = tmp_path / "cut.mp4"
    data = clip.read_bytes()
    source.write_bytes(data[: int(share * len(data))])
    try:
        info, video = encoded(source)
    except VideoError as error:
        assert "cut.mp4" in error.message
    else:
        assert info.num_frames == len(picture_types(video))


def test_damage_in_the_middle_gives_a_video_or_an_error_that_names_the_file(tmp_path: Path, clip: Path):
    data = clip.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(12):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 6):
            damaged[at] ^= 1 << int(rng.integers(8))
        source = tmp_path / "damaged.mp4"
        source.write_bytes(damaged)
        try:
            info, video = encoded(source)
        except VideoError as error:
            assert "damaged.mp4" in error.message
        else:
            assert info.num_frames == len(picture_types(video))


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path, clip: Path):
    target = tmp_path / "missing" / "out.mp4"
    with pytest.raises(StorageError, match=r"out\.mp4"):
        transcode(clip, target, BEST)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device on which every write fails")
def test_a_full_disk_is_reported(tmp_path: Path, clip: Path):
    target = tmp_path / "out.mp4"
    target.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"out\.mp4"):
        transcode(clip, target, BEST)


def test_progress_reaches_the_end(clip: Path, tmp_path: Path):
    seen = []
    transcode(clip, tmp_path / "out.mp4", BEST, on_progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == pytest.approx((74 / 30, 2.5), abs=0.04)


@pytest.mark.parametrize(
    "change",
    [
        {"fps": 0},
        {"gop_frames": 0},
        {"gop_frames": 601},
        {"short_side_px": 8},
        {"quality": 1},
        {"quality": 32},
        {"stream": -1},
    ],
)
def test_settings_that_cannot_be_used_name_their_flag(change: dict[str, int]):
    with pytest.raises(UsageError, match="--"):
        EncodeConfig(**change)
