"""Reading an encoded stream: what is given, what is refused, what is kept in memory."""

from __future__ import annotations

import gc
from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import picture_types, pictures, write_video

from cope_cli.codec.gop import GopSpan, slots_of
from cope_cli.codec.mpeg4.stream import read_frames, read_gop_spans
from cope_cli.codec.primitives import extract_slots, read_slot_frames, rgb_converter
from cope_cli.errors import VideoError


def test_spans_read_from_the_container_are_those_of_the_decoded_picture_types(shared_cache):
    types = picture_types(shared_cache.video)
    spans = read_gop_spans(shared_cache.video)
    assert "".join("I" + "P" * (span.num_frames - 1) for span in spans) == types
    assert [frame.is_iframe for frame in read_frames(shared_cache.video, with_vectors=True)] == [
        kind == "I" for kind in types
    ]


def test_vectors_come_with_pframes_only_and_only_if_asked_for(shared_cache):
    for frame in read_frames(shared_cache.video, with_vectors=True):
        assert frame.is_iframe == (frame.vectors is None)
    assert all(frame.vectors is None for frame in read_frames(shared_cache.video))


def test_pictures_are_the_same_with_vectors_and_without(shared_cache):
    pairs = zip(read_frames(shared_cache.video, with_vectors=True), read_frames(shared_cache.video), strict=True)
    for one, other in pairs:
        for plane in ("luma", "cb", "cr"):
            assert np.array_equal(getattr(one.picture, plane), getattr(other.picture, plane))


def test_frames_are_freed_as_soon_as_they_are_read(shared_cache):
    """Reference cycles through PyAV's side data would pile up pictures until the garbage collector comes round."""
    gc.collect()
    gc.disable()
    try:
        most = 0
        for frame in read_frames(shared_cache.video, with_vectors=True):
            if frame.index % 15 != 14:
                continue
            most = max(most, sum(type(item) is av.VideoFrame for item in gc.get_objects()))
    finally:
        gc.enable()
    assert 1 <= most <= 3


def test_a_plane_is_given_without_the_padding_of_its_lines(shared_cache):
    frame = next(read_frames(shared_cache.video, with_vectors=True))
    assert frame.picture.luma.shape == (frame.size.height, frame.size.width)
    assert frame.picture.cb.shape == frame.picture.cr.shape == (frame.size.height // 2, frame.size.width // 2)


def test_another_codec_is_refused(tmp_path: Path):
    video = write_video(tmp_path / "a.mp4", pictures(3))
    for read in (read_gop_spans, lambda path: next(read_frames(path))):
        with pytest.raises(VideoError, match=r"a\.mp4: the codec is h264, expected mpeg4"):
            read(video)


@pytest.mark.parametrize("options", [{"bf": "2"}, {"flags": "+qpel"}])
def test_bframes_and_quarter_pixels_are_refused(tmp_path: Path, options: dict[str, str]):
    video = write_video(tmp_path / "a.mp4", pictures(12, x_px=3), codec="mpeg4", options=options)
    with pytest.raises(VideoError):
        for _ in extract_slots(video, slots_of(read_gop_spans(video), 2), 16):
            pass


@pytest.mark.parametrize("options", [{"flags": "+mv4", "mbd": "rd", "b": "4M"}, {"g": "5"}])
def test_other_mpeg4_streams_of_ip_frames_can_be_read(tmp_path: Path, options: dict[str, str]):
    video = write_video(tmp_path / "a.mp4", pictures(12, x_px=3), codec="mpeg4", options=options)
    slots = slots_of(read_gop_spans(video), 3)
    assert [found.slot for found in extract_slots(video, slots, 16)] == slots


def test_wrong_slots_are_refused(shared_cache):
    whole = GopSpan(start_frame=0, num_frames=75)  # the stream has an I-frame every 30 frames
    with pytest.raises(VideoError, match="frame 30 is an I-frame, which its container does not say"):
        list(extract_slots(shared_cache.video, slots_of([whole], 10), 16))
    spans = [*read_gop_spans(shared_cache.video), GopSpan(start_frame=75, num_frames=1)]
    with pytest.raises(VideoError, match="the stream ends after 8 of 9 slots"):
        list(extract_slots(shared_cache.video, slots_of(spans, 10), 16))


def test_a_frame_past_the_end_is_an_error(shared_cache):
    with pytest.raises(VideoError, match="frame 75 is past the end"):
        list(read_slot_frames(shared_cache.video, [3, 75], rgb_converter(16)))
    assert list(read_slot_frames(shared_cache.video, [], rgb_converter(16))) == []


@pytest.mark.parametrize("content", [b"", b"no video", bytes(1000)])
def test_a_file_that_is_no_video_is_named(tmp_path: Path, content: bytes):
    video = tmp_path / "a.mp4"
    video.write_bytes(content)
    with pytest.raises(VideoError, match=r"a\.mp4: cannot be read"):
        read_gop_spans(video)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(VideoError, match=r"none\.mp4: cannot be read"):
        next(read_frames(tmp_path / "none.mp4"))
