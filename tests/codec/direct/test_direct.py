"""Primitives straight from a file: slots by time, traces along references, what is refused, equal bytes each time."""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_videos import pictures, set_display_matrix, show_turned, write_streams, write_video

from cope_cli.cache.store import Cache
from cope_cli.codec.direct.headers import PictureHeaders
from cope_cli.codec.direct.slots import extract_direct_slots, read_direct_rgb, slots_of_stream
from cope_cli.codec.direct.stream import decode_ranges, read_direct_frames, read_stream
from cope_cli.codec.fusion import FrameSize, warp
from cope_cli.codec.gop import GopSpan, slots_of, timed_slots
from cope_cli.codec.mpeg4.stream import read_gop_spans
from cope_cli.codec.orientation import Orientation
from cope_cli.codec.primitives import SlotPrimitives, extract_slots
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig
from cope_cli.errors import VideoError
from cope_cli.stages.encode import encode_video

BFRAMES = {"preset": "medium", "crf": "18", "x264-params": "bframes=3:b-pyramid=normal:ref=4:b-adapt=0"}
OPEN_GOP = {**BFRAMES, "x264-params": BFRAMES["x264-params"] + ":open-gop=1:keyint=12:min-keyint=12"}
TWO_BFRAMES = {"bf": "2", "flags": "+qscale", "global_quality": "354"}


def extracted(
    path: Path, *, window: int = 10, grid: int = 32, gop: int = 240, keep_tail: bool = False
) -> list[SlotPrimitives]:
    config = DirectConfig(
        extract=ExtractConfig(fusion_frames=window, grid_px=grid, keep_tail=keep_tail), gop_frames=gop
    )
    stream = read_stream(path)
    return list(extract_direct_slots(stream, slots_of_stream(stream, config), grid))


def px_per_frame(slot: SlotPrimitives) -> float:
    """Median displacement in x, in pixels per frame."""
    assert slot.motion is not None
    return float(np.median(slot.motion[0])) / 2 / slot.slot.window_frames


# The same as the encoded way, where both can go


@pytest.mark.parametrize("window", [30, 10, 1])
def test_an_encoded_video_read_directly_gives_what_extract_gives(clip: Path, tmp_path: Path, window: int):
    cache = Cache(tmp_path)
    record = encode_video(clip, cache, EncodeConfig(gop_frames=30))
    video = cache.encoded_folder / f"{record.name}.mp4"
    slots = slots_of(read_gop_spans(video), window)
    expected = list(extract_slots(video, slots, 48))
    found = extracted(video, window=window, grid=48, gop=30)
    assert [slot.slot for slot in found] == slots
    for one, other in zip(found, expected, strict=True):
        assert one.size == other.size
        for name in ("grid_frame", "motion", "residual"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None) == (b is None)
            assert a is None or np.array_equal(a, b)


# Known motion: the camera pans by 2 pixels a frame, so that all content moves by -2


@pytest.mark.parametrize("window", [10, 1])
@pytest.mark.parametrize("options", [BFRAMES, OPEN_GOP], ids=["closed", "open GOPs of 12"])
def test_motion_is_that_of_the_camera_through_bframes_of_h264(tmp_path: Path, window: int, options: dict[str, str]):
    path = write_video(tmp_path / "a.mp4", pictures(60, x_px=2), options=options)
    stream = read_stream(path)
    assert stream.references == "approximate"
    assert {"I", "P", "B"} == {picture_type(frame.decoded) for frame in read_direct_frames(stream, range(60), [0])}
    motion = [px_per_frame(slot) for slot in extracted(path, window=window) if slot.motion is not None]
    assert len(motion) == 59 // window
    is_right = [abs(one + 2) <= 0.11 for one in motion]
    assert sum(is_right) >= 0.9 * len(motion)  # a vector may point to another reference than the nearest


def picture_type(frame: av.VideoFrame) -> str:
    return av.video.frame.PictureType(frame.pict_type).name


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("mpeg4", "a.mp4", {**TWO_BFRAMES, "g": "300"}),
        ("mpeg2video", "a.ts", TWO_BFRAMES),
        ("mpeg1video", "a.mkv", TWO_BFRAMES),
        ("mpeg4", "a.avi", {"flags": "+qscale+qpel+mv4", "global_quality": "354", "g": "300"}),
        ("h263p", "a.avi", {"flags": "+qscale", "umv": "1", "global_quality": "354", "g": "300"}),
        ("flv", "a.flv", {"flags": "+qscale", "global_quality": "354", "g": "300"}),
        ("msmpeg4v2", "a.avi", {"flags": "+qscale", "global_quality": "354", "g": "300"}),
        ("msmpeg4", "a.avi", {"flags": "+qscale", "global_quality": "354", "g": "300"}),
        ("wmv1", "a.asf", {"flags": "+qscale", "global_quality": "354", "g": "300"}),
        ("wmv2", "a.asf", {"flags": "+qscale", "global_quality": "354", "g": "300"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_motion_is_that_of_the_camera_in_every_codec(tmp_path: Path, codec: str, name: str, options: dict[str, str]):
    path = write_video(tmp_path / name, pictures(50, x_px=2), codec=codec, options=options)
    stream = read_stream(path)
    slots = extracted(path)
    motion = [px_per_frame(slot) for slot in slots if slot.motion is not None]
    assert len(motion) == 4
    assert motion == pytest.approx([-2] * 4, abs=0.8)  # intra blocks stand still
    previous = None
    for slot in slots:
        if slot.motion is not None and slot.residual is not None and previous is not None:
            assert np.array_equal(warp(previous, slot.motion, stream.size) + slot.residual, slot.grid_frame)
        previous = slot.grid_frame


def test_a_point_that_leaves_a_bframe_forward_comes_back_along_its_reference(tmp_path: Path):
    """Windows of one frame make every B-frame a slot; with the wrong side the sign would turn."""
    path = write_video(tmp_path / "a.ts", pictures(24, x_px=2), codec="mpeg2video", options=TWO_BFRAMES)
    stream = read_stream(path)
    bframes = {index for index, frame in enumerate(stream.frames) if not frame.is_reference}
    assert len(bframes) >= 14
    of_bframes = [
        px_per_frame(s) for s in extracted(path, window=1) if s.slot.frame in bframes and s.motion is not None
    ]
    assert np.mean(of_bframes) == pytest.approx(-2, abs=0.3)


# Repeatable


def digest(slots: list[SlotPrimitives]) -> str:
    found = hashlib.sha256()
    for slot in slots:
        for array in (slot.grid_frame, slot.motion, slot.residual):
            found.update(b"" if array is None else array.tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("window", [10, 1])
def test_ten_decodes_of_a_clip_with_bframes_give_the_same_bytes(tmp_path: Path, window: int):
    path = write_video(tmp_path / "a.mp4", pictures(60, width=160, height=96, x_px=2), options=OPEN_GOP)
    assert len({digest(extracted(path, window=window)) for _ in range(10)}) == 1


def test_leaving_out_packets_that_no_slot_needs_changes_nothing(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", pictures(60, x_px=2), options={**BFRAMES, "g": "20"})
    stream = read_stream(path)
    config = DirectConfig(extract=ExtractConfig(fusion_frames=15, grid_px=32), gop_frames=20)
    slots = slots_of_stream(stream, config)
    ranges = decode_ranges(stream, [slot.frame for slot in slots], [slot.frame for slot in slots if slot.is_iframe])
    assert len(ranges) == 3 and sum(map(len, ranges)) < 60
    everything = {frame.index: frame for frame in read_direct_frames(stream, range(60), [0])}
    assert len(everything) == 60
    for slot in extract_direct_slots(stream, slots, 32):
        whole = everything[slot.slot.frame]
        assert np.array_equal(slot.grid_frame, whole.picture.to_grid(32, whole.colour))


# Slots by time


@settings(max_examples=200, deadline=None)
@given(
    gaps=st.lists(st.sampled_from([0.02, 0.033, 0.04, 0.1, 1.0, 7.0, 30.0]), max_size=80),
    every=st.integers(1, 40),
    references=st.integers(1, 4),
    window=st.sampled_from([1 / 30, 1 / 3, 1.0, 20.0]),
    gop=st.sampled_from([1.0, 8.0]),
    keep_tail=st.booleans(),
)
def test_timed_slots_keep_their_promises(
    gaps: list[float], every: int, references: int, window: float, gop: float, keep_tail: bool
):
    seconds = [0.0, *np.cumsum(gaps).tolist()]
    is_keyframe = [index % every == 0 for index in range(len(seconds))]
    is_reference = [index % references == 0 for index in range(len(seconds))]
    slots = timed_slots(seconds, is_keyframe, is_reference, window_seconds=window, gop_seconds=gop, keep_tail=keep_tail)
    frames = [slot.frame for slot in slots]
    assert frames[0] == 0 and frames == sorted(set(frames))
    assert [slot.gop for slot in slots if slot.is_iframe] == list(range(slots[-1].gop + 1))
    for before, after in pairwise(slots):
        assert after.gop - before.gop == after.is_iframe
        is_free = after.frame == len(seconds) - 1 or window > gop / 2
        assert is_free or seconds[after.frame] - seconds[before.frame] >= window / 2 - 0.0011
        assert after.is_iframe or after.window_frames == after.frame - before.frame
    if keep_tail:
        assert frames[-1] == len(seconds) - 1
    starts = [slot.frame for slot in slots if slot.is_iframe]
    for start, following in pairwise(starts):
        if is_keyframe[following]:
            continue
        times = [seconds[index] - seconds[start] for index in range(len(seconds)) if is_keyframe[index]]
        assert not any(gop / 2 < time < 1.5 * gop for time in times), "a keyframe in reach was passed over"


def test_at_30_fps_slots_are_those_of_the_encoded_way():
    is_keyframe = [index % 240 == 0 for index in range(600)]
    for window in (1, 10, 30, 50):
        found = timed_slots(
            [index / 30 for index in range(600)], is_keyframe, [True] * 600, window_seconds=window / 30, gop_seconds=8
        )
        spans = [(0, 240), (240, 240), (480, 120)]
        expected = slots_of([GopSpan(start_frame=a, num_frames=n) for a, n in spans], window)
        assert found == expected


@pytest.mark.parametrize(
    ("gop_seconds_of_stream", "starts"),
    [(0.5, [0, 8, 16]), (3, [0, 9, 18]), (5, [0, 10, 15]), (8.4, [0, 8.4, 16.8]), (1000, [0, 8, 16])],
)
def test_gops_of_slots_are_whole_gops_of_the_stream_near_8_seconds(gop_seconds_of_stream: float, starts: list[float]):
    seconds = [index / 10 for index in range(190)]
    is_keyframe = [index % round(10 * gop_seconds_of_stream) == 0 for index in range(190)]
    slots = timed_slots(seconds, is_keyframe, [True] * 190, window_seconds=1, gop_seconds=8)
    assert [seconds[slot.frame] for slot in slots if slot.is_iframe] == starts


def test_a_variable_rate_gives_slots_at_its_times(tmp_path: Path):
    times = [0, 40, 90, 1000, 1040, 2300, 2333, 5000, 5100, 5200, 6010]
    path = write_video(tmp_path / "a.mkv", pictures(len(times)), times_ms=times, options={"crf": "12", "bf": "0"})
    stream = read_stream(path)
    assert [round(1000 * second) for second in stream.seconds] == times
    slots = slots_of_stream(stream, DirectConfig(extract=ExtractConfig(fusion_frames=30, grid_px=16)))
    assert [times[slot.frame] for slot in slots] == [0, 1000, 2300, 5000, 6010]
    assert len(list(extract_direct_slots(stream, slots, 16))) == 5


# Turned, odd and cut pictures


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1)])
def test_a_turned_video_is_that_of_the_turned_pictures(tmp_path: Path, matrix: tuple[int, int, int, int]):
    path = write_video(tmp_path / "a.mp4", pictures(31, x_px=2), options=BFRAMES)
    plain = extracted(path)
    set_display_matrix(path, *matrix)
    turned = extracted(path)
    assert turned[0].size == (FrameSize(width=64, height=96) if matrix[1] else FrameSize(width=96, height=64))
    a, b, c, d = matrix
    for one, other in zip(turned, plain, strict=True):
        assert np.array_equal(one.grid_frame, show_turned(other.grid_frame, *matrix))
        if one.motion is not None and other.motion is not None:
            x, y = (np.median(axis) for axis in other.motion)
            assert [np.median(axis) for axis in one.motion] == [a * x + c * y, b * x + d * y]
    stream = read_stream(path)
    slots = slots_of_stream(stream, DirectConfig(extract=ExtractConfig(fusion_frames=10, grid_px=32)))
    rgb = next(read_direct_rgb(stream, slots, [0], 32))
    assert np.abs(rgb.astype(int) - turned[0].grid_frame).mean() < 12


def test_turning_a_field_turns_points_and_vectors():
    field = np.zeros((2, 4, 4), np.int16)
    field[:, 0, 3] = 5, -3  # at the upper right, to the right and up
    turned = Orientation(turns=1).motion(field)  # counter-clockwise: to the upper left, up and left
    assert turned[:, 0, 0].tolist() == [-3, -5]
    assert np.count_nonzero(turned) == 2
    assert np.array_equal(Orientation(turns=2).motion(field), Orientation(turns=1).motion(turned))
    mirrored = Orientation(flip=True).motion(field)
    assert mirrored[:, 0, 0].tolist() == [-5, -3]


@pytest.mark.parametrize(("width", "height"), [(66, 50), (97, 65), (34, 18)])
def test_odd_sizes_and_cropped_pictures_keep_the_identity(tmp_path: Path, width: int, height: int):
    codec, options = ("mpeg4", {}) if width % 2 else ("libx264", BFRAMES)
    path = write_video(
        tmp_path / "a.mp4", pictures(24, width=width, height=height, x_px=1), codec=codec, options=options
    )
    stream = read_stream(path)
    assert (stream.size.width, stream.size.height) == (width, height)
    previous = None
    for slot in extracted(path, window=5):
        if previous is not None and slot.motion is not None and slot.residual is not None:
            assert np.array_equal(warp(previous, slot.motion, stream.size) + slot.residual, slot.grid_frame)
        previous = slot.grid_frame


# What is refused, by name


def refused(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        extracted(path)
    assert "cope encode" in caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(
    ("codec", "name", "shown"),
    [
        ("libx265", "a.mp4", "hevc"),
        ("libvpx-vp9", "a.webm", "vp9"),
        ("libsvtav1", "a.mkv", "av1"),
        ("mjpeg", "a.avi", "mjpeg"),
    ],
)
def test_codecs_without_vectors_are_refused_with_the_way_to_go(tmp_path: Path, codec: str, name: str, shown: str):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    policy = os.sched_getscheduler(0)
    path = write_video(tmp_path / name, pictures(5), codec=codec, options=options, pix_fmt=pix_fmt)
    os.sched_setscheduler(0, policy, os.sched_param(0))  # SVT-AV1 puts root's process before all others, for good
    assert f"no motion vectors of {shown}" in refused(path)


def test_ten_bits_are_refused(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", pictures(5), pix_fmt="yuv420p10le", options={"crf": "20"})
    assert "yuv420p10le" in refused(path)


def test_interlaced_pictures_are_refused(tmp_path: Path):
    options = {"crf": "20", "flags": "+ildct+ilme", "x264-params": "interlaced=1:log-level=-1"}
    path = write_video(tmp_path / "a.mp4", pictures(9, width=96, height=64), options=options)
    assert "is interlaced" in refused(path)


def test_a_size_that_changes_half_way_is_refused(tmp_path: Path):
    path, shift = tmp_path / "a.ts", 0
    with av.open(str(path), "w") as joined:
        copy = None
        for width in (96, 64):
            part = write_video(tmp_path / f"{width}.ts", pictures(12, width=width), options={"bf": "0"})
            with av.open(str(part)) as source:
                copy = copy or joined.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream, packet.pts, packet.dts = copy, packet.pts + shift, packet.dts + shift
                        joined.mux(packet)
            shift += 12 * 3000
    assert "frame 12 is 64x64, those before 96x64" in refused(path)


def test_a_raw_stream_without_times_is_refused(tmp_path: Path):
    path = write_video(tmp_path / "a.h264", pictures(5), container="h264")
    assert "does not say when it is shown" in refused(path)


def test_damage_is_refused_or_harmless_but_never_a_crash(tmp_path: Path):
    whole = write_video(tmp_path / "a.ts", pictures(40, x_px=2), options=OPEN_GOP).read_bytes()
    random = np.random.default_rng(3)
    path = tmp_path / "b.ts"
    for _ in range(20):
        data = bytearray(whole)
        for at in random.integers(0, len(data), 4):
            data[at] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        try:
            slots = extracted(path)
        except VideoError:
            continue
        assert slots


# Headers


def test_headers_tell_references_as_decoding_does(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", pictures(40, x_px=2), options=OPEN_GOP)
    stream = read_stream(path)
    types = "".join(picture_type(frame.decoded) for frame in read_direct_frames(stream, range(40), [0]))
    assert len(types) == 40
    pairs = list(zip(types, stream.frames, strict=True))
    by_type = {kind: {frame.is_reference for shown, frame in pairs if shown == kind} for kind in "IPB"}
    assert by_type["I"] == by_type["P"] == {True}
    assert by_type["B"] == {True, False}, "a pyramid has B-frames of both kinds"
    assert [frame.can_restart for frame in stream.frames if frame.is_keyframe] == [True, False, False, False]


@pytest.mark.parametrize(("ref", "bframes", "expected"), [("1", "0", "exact"), ("3", "0", "approximate")])
def test_references_are_exact_where_there_is_but_one(tmp_path: Path, ref: str, bframes: str, expected: str):
    options = {"x264-params": f"ref={ref}:bframes={bframes}", "preset": "medium"}
    for name in ("a.mp4", "a.ts"):
        stream = read_stream(write_video(tmp_path / name, pictures(12), options=options))
        assert stream.references == expected


def test_a_header_cut_off_counts_as_a_reference():
    for codec in ("h264", "mpeg2video", "mpeg4", "flv"):
        headers = PictureHeaders.of(codec, None)
        for data in (b"", b"\0", b"\0\0\1", b"\0\0\1\0", b"\0\0\1\xb6"):
            assert headers.is_reference(data)


def test_frames_of_a_second_stream_and_an_unknown_one(tmp_path: Path):
    path = write_streams(tmp_path / "a.mkv", [pictures(6), pictures(6, width=64, height=48)])
    assert read_stream(path, 1).size == FrameSize(width=64, height=48)
    with pytest.raises(VideoError, match="2 video stream"):
        read_stream(path, 2)


def test_a_stream_that_begins_between_keyframes_begins_at_the_first(tmp_path: Path):
    """As recorded from a broadcast: what comes before the first keyframe cannot be decoded."""
    path = write_video(tmp_path / "a.ts", pictures(36, x_px=2), options=OPEN_GOP)
    with av.open(str(path)) as source, av.open(str(tmp_path / "cut.ts"), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for place, packet in enumerate(source.demux(stream)):
            if packet.size and place >= 5:
                packet.stream = copy
                target.mux(packet)
    found = read_stream(tmp_path / "cut.ts")
    assert found.frames[0].is_keyframe and len(found.frames) == 24
    assert len(extracted(tmp_path / "cut.ts")) == 3
