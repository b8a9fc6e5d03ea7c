"""Spans, slots and keyframes against the slowest definitions that say the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cope_cli.codec.gop import GopSpan, Slot, gop_spans, keyframe_slots, slots_of

picture_types = st.lists(st.booleans(), max_size=80).map(lambda flags: [True, *flags])
windows = st.integers(1, 40)


@given(picture_types)
def test_spans_cover_every_frame_once_and_begin_at_each_iframe(is_iframe: list[bool]):
    spans = gop_spans(is_iframe)
    frames = [frame for span in spans for frame in range(span.start_frame, span.start_frame + span.num_frames)]
    assert frames == list(range(len(is_iframe)))
    assert {span.start_frame for span in spans} == {index for index, flag in enumerate(is_iframe) if flag}


def test_a_stream_without_frames_has_no_gops():
    assert gop_spans([]) == []
    assert slots_of([], 30) == []


def test_a_stream_that_begins_with_a_pframe_is_refused():
    with pytest.raises(ValueError, match="first frame"):
        gop_spans([False, True])


@pytest.mark.parametrize(("start", "num"), [(-1, 3), (0, 0), (5, -2)])
def test_a_span_that_is_none_is_refused(start: int, num: int):
    with pytest.raises(ValueError, match="not a GOP"):
        GopSpan(start_frame=start, num_frames=num)


@given(picture_types, windows, st.booleans())
def test_slots_are_those_of_a_walk_frame_by_frame(is_iframe: list[bool], window: int, keep_tail: bool):
    expected, gop, since_iframe, since_slot = [], -1, 0, 0
    for frame, flag in enumerate(is_iframe):
        since_iframe = 0 if flag else since_iframe + 1
        since_slot += 1
        gop += flag
        is_tail = keep_tail and frame == len(is_iframe) - 1
        if since_iframe % window == 0 or is_tail:
            expected.append(Slot(frame=frame, gop=gop, window_frames=0 if flag else since_slot))
            since_slot = 0
    assert slots_of(gop_spans(is_iframe), window, keep_tail=keep_tail) == expected


@given(picture_types, windows, st.booleans())
def test_windows_never_reach_over_an_iframe(is_iframe: list[bool], window: int, keep_tail: bool):
    for slot in slots_of(gop_spans(is_iframe), window, keep_tail=keep_tail):
        inside = is_iframe[slot.frame - slot.window_frames + 1 : slot.frame + 1]
        assert slot.is_iframe == is_iframe[slot.frame]
        assert len(inside) == slot.window_frames <= window
        assert not any(inside)


def test_the_papers_gop_has_eight_slots_of_which_seven_are_fused():
    slots = slots_of([GopSpan(start_frame=0, num_frames=240), GopSpan(start_frame=240, num_frames=100)], 30)
    assert [slot.frame for slot in slots] == [0, 30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 330]
    assert [slot.is_iframe for slot in slots] == [True] + [False] * 7 + [True] + [False] * 3
    tail = slots_of([GopSpan(start_frame=240, num_frames=100)], 30, keep_tail=True)[-1]
    assert tail == Slot(frame=339, gop=0, window_frames=9)


def test_keyframes_of_a_full_gop():
    assert [keyframe_slots(8, k) for k in (1, 2, 4, 8)] == [(0,), (0, 4), (0, 2, 4, 6), tuple(range(8))]


@given(st.integers(1, 300), st.integers(1, 300))
def test_keyframes_are_distinct_spread_out_and_begin_with_the_iframe(num_slots: int, k: int):
    keyframes = keyframe_slots(num_slots, k)
    assert keyframes[0] == 0
    assert len(keyframes) == min(k, num_slots)
    assert list(keyframes) == sorted(set(keyframes))
    steps = [b - a for a, b in zip(keyframes, [*keyframes[1:], num_slots], strict=True)]
    assert max(steps) - min(steps) <= 1


@given(st.integers(1, 50), st.integers(1, 16), st.integers(1, 6))
def test_keyframes_of_a_divisor_are_among_those_of_its_multiple(num_slots: int, k: int, times: int):
    assert set(keyframe_slots(num_slots, k)) <= set(keyframe_slots(num_slots, k * times))


@pytest.mark.parametrize(("num_slots", "k"), [(0, 1), (4, 0), (-1, 2)])
def test_keyframes_of_nothing_are_refused(num_slots: int, k: int):
    with pytest.raises(ValueError, match="at least 1"):
        keyframe_slots(num_slots, k)
