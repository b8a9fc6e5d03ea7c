"""GOPs, slots and keyframes: pure arithmetic, no video and no tensors.

```
stream frame   0    30   60   90  ...  210 ... 239 | 240  270 ...
picture type   I    P    P    P        P       P   | I    P
slot           0    1    2    3   ...  7           | 8    9        (s = 30)
GOP            0    0    0    0        0           | 1    1
```

A GOP starts at every I-frame, wherever the stream has one: spans are read from the picture types, never computed
as ``frame // gop_size``. Slots stand at 0, s, 2s, ... of each GOP; frames after a GOP's last full window belong to
no slot, because the next I-frame shows where they led. Only the end of the video can lose something that way, so
`keep_tail` adds its last frame as the slot of a short window.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GopSpan:
    """One GOP: frames `start_frame` to `start_frame + num_frames - 1` of the stream."""

    start_frame: int
    num_frames: int

    def __post_init__(self) -> None:
        if self.start_frame < 0 or self.num_frames < 1:
            raise ValueError(f"not a GOP: {self.num_frames} frames from frame {self.start_frame}")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One sampled time step: an I-frame (`window_frames` 0), or the P-frames since the previous slot, fused."""

    frame: int
    gop: int
    window_frames: int

    @property
    def is_iframe(self) -> bool:
        """True for the first slot of a GOP."""
        return self.window_frames == 0


def gop_spans(is_iframe: Sequence[bool]) -> list[GopSpan]:
    """Cut a stream into GOPs at its I-frames.

    Args:
        is_iframe: for each frame in order, whether it is an I-frame.

    Raises:
        ValueError: the first frame is not an I-frame.
    """
    if not is_iframe:
        return []
    if not is_iframe[0]:
        raise ValueError("the first frame is not an I-frame")
    starts = [index for index, flag in enumerate(is_iframe) if flag]
    ends = [*starts[1:], len(is_iframe)]
    return [GopSpan(start_frame=a, num_frames=b - a) for a, b in zip(starts, ends, strict=True)]


def slots_of(spans: Sequence[GopSpan], fusion_frames: int, *, keep_tail: bool = False) -> list[Slot]:
    """Return every slot of a stream, in order.

    Args:
        spans: the stream's GOPs.
        fusion_frames: the fusion window s, in frames.
        keep_tail: also make the video's last frame a slot, of a window shorter than s.
    """
    slots = []
    for gop, span in enumerate(spans):
        offsets = list(range(0, span.num_frames, fusion_frames))
        if keep_tail and gop == len(spans) - 1 and offsets[-1] != span.num_frames - 1:
            offsets.append(span.num_frames - 1)
        for before, offset in zip([offsets[0], *offsets], offsets, strict=False):
            slots.append(Slot(frame=span.start_frame + offset, gop=gop, window_frames=offset - before))
    return slots


def adaptive_slots(
    spans: Sequence[GopSpan],
    energies: Sequence[float],
    *,
    energy: float,
    min_frames: int,
    max_frames: int,
    keep_tail: bool = False,
) -> list[Slot]:
    """Return the slots of a stream whose windows close when enough has happened in them.

    Args:
        spans: the stream's GOPs.
        energies: of each frame; those of I-frames are not looked at.
        energy: a window closes at the frame with which its sum reaches this.
        min_frames: but not before it has as many frames.
        max_frames: and at the latest when it has as many.
        keep_tail: also make the video's last frame a slot.
    """
    slots = []
    for gop, span in enumerate(spans):
        slots.append(Slot(frame=span.start_frame, gop=gop, window_frames=0))
        last, total, end = span.start_frame, 0.0, span.start_frame + span.num_frames
        for frame in range(span.start_frame + 1, end):
            total += energies[frame]
            window = frame - last
            is_last = keep_tail and gop == len(spans) - 1 and frame == end - 1
            if (window >= min_frames and total >= energy) or window >= max_frames or is_last:
                slots.append(Slot(frame=frame, gop=gop, window_frames=window))
                last, total = frame, 0.0
    return slots


def timed_slots(
    seconds: Sequence[float],
    is_keyframe: Sequence[bool],
    is_reference: Sequence[bool],
    *,
    window_seconds: float,
    gop_seconds: float,
    keep_tail: bool = False,
) -> list[Slot]:
    """Return the slots of a stream with any frame rate and any GOPs, by time.

    ```
    stream GOPs    | 1 s | 1 s | ...  eight of them |         gop_seconds = 8: the GOPs of the slots are whole GOPs
    slot GOPs      | 8 s                            |         of the stream, as near to 8 s as they can be, 4 to 12 s
    stream GOP     | 20 s                                     |
    slot GOPs      | 8 s            | 12 s                    |    else cut by time: a P-frame becomes a first slot
    ```

    In a slot GOP slots stand every `window_seconds` from its first frame on, at the frame nearest in time, or at the
    nearest reference frame if that is within a quarter of the window. Slots are at least half a window apart: where
    the video has fewer frames than that, so are its slots.

    Args:
        seconds: each frame's time, strictly ascending.
        is_keyframe: whether it is a frame at which a GOP of the stream begins.
        is_reference: whether other frames are predicted from it.
        window_seconds: from slot to slot.
        gop_seconds: the length that GOPs of slots should have.
        keep_tail: also make the last frame a slot.
    """
    starts = _timed_starts(seconds, is_keyframe, is_reference, gop_seconds, window_seconds / 4)
    slots = []
    for gop, (start, end) in enumerate(zip(starts, [*starts[1:], len(seconds)], strict=True)):
        limit = seconds[end] - window_seconds / 2 if end < len(seconds) else seconds[-1]
        frames = [start]
        while (goal := _next_goal(seconds, frames[-1], start, window_seconds)) <= limit + _TOLERANCE_SECONDS:
            least = bisect_left(seconds, seconds[frames[-1]] + window_seconds / 2 - _TOLERANCE_SECONDS, frames[-1] + 1)
            frame = _frame_at(seconds, is_reference, goal, window_seconds / 4, range(least, end))
            if frame is None or seconds[frame] > limit + _TOLERANCE_SECONDS:
                break
            frames.append(frame)
        if keep_tail and end == len(seconds) and frames[-1] != end - 1:
            frames.append(end - 1)
        slots += [Slot(frame=b, gop=gop, window_frames=b - a) for a, b in zip([start, *frames], frames, strict=False)]
    return slots


#: Containers round times to milliseconds.
_TOLERANCE_SECONDS = 1e-3


def _timed_starts(
    seconds: Sequence[float],
    is_keyframe: Sequence[bool],
    is_reference: Sequence[bool],
    gop_seconds: float,
    reach: float,
) -> list[int]:
    """Return the first frames of the slots' GOPs."""
    keyframes = [frame for frame, flag in enumerate(is_keyframe) if flag]
    times = [seconds[frame] for frame in keyframes]
    starts = [0] if seconds else []
    while starts:
        goal = seconds[starts[-1]] + gop_seconds
        low = bisect_left(times, goal - gop_seconds / 2)
        high = bisect_left(times, goal + gop_seconds / 2 + _TOLERANCE_SECONDS)
        found = min(range(low, high), key=lambda n: abs(times[n] - goal), default=None)
        start = None if found is None else keyframes[found]
        if start is None and seconds[-1] >= goal - _TOLERANCE_SECONDS:
            least = bisect_left(seconds, goal - gop_seconds / 2, starts[-1] + 1)
            start = _frame_at(seconds, is_reference, goal, reach, range(least, len(seconds)))
        if start is None:
            break
        starts.append(start)
    return starts


def _next_goal(seconds: Sequence[float], last: int, start: int, window_seconds: float) -> float:
    """Return the time of the slot after the one at frame `last`: a whole number of windows after the GOP's start."""
    passed = (seconds[last] - seconds[start]) / window_seconds
    return seconds[start] + (int(passed + 0.5 + _TOLERANCE_SECONDS) + 1) * window_seconds


def _frame_at(
    seconds: Sequence[float], is_reference: Sequence[bool], goal: float, reach: float, frames: range
) -> int | None:
    """Return the frame nearest to a time, a reference frame if one is within reach; the earlier of two."""
    if not frames:
        return None

    def near(within: float) -> Iterator[int]:
        first = bisect_left(seconds, goal - within, frames.start, frames.stop)
        last = bisect_left(seconds, goal + within + _TOLERANCE_SECONDS, frames.start, frames.stop)
        return iter(range(first, last))

    references = [frame for frame in near(reach) if is_reference[frame]]
    if references:
        return min(references, key=lambda frame: abs(seconds[frame] - goal))
    after = bisect_left(seconds, goal, frames.start, frames.stop)
    around = [frame for frame in (after - 1, after) if frame in frames]
    return min(around, key=lambda frame: abs(seconds[frame] - goal))


def keyframe_slots(num_slots: int, keyframes_per_gop: int) -> tuple[int, ...]:
    """Return which slots of a GOP go to the vision encoder as RGB: ``floor(i * n / K)``, duplicates dropped.

    With n = 8 slots: K = 1 gives 0; K = 2 gives 0, 4; K = 4 gives 0, 2, 4, 6. Slot 0, the I-frame, is always one.

    Args:
        num_slots: slots in this GOP, at least 1.
        keyframes_per_gop: K, at least 1.
    """
    if num_slots < 1 or keyframes_per_gop < 1:
        raise ValueError(f"keyframes of {num_slots} slots with K = {keyframes_per_gop}: both must be at least 1")
    return tuple(sorted({i * num_slots // keyframes_per_gop for i in range(keyframes_per_gop)}))
