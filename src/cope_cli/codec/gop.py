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

from collections.abc import Sequence
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
    """One sampled time step: an I-frame (`window_frames` 0), or the P-frames since the slot before, fused."""

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
