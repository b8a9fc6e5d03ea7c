"""Which slots of a video the language model sees, and what they cost in tokens: pure arithmetic.

```
slots of one GOP (n = 8, K = 1)   I   P   P   P   P   P   P   P
shown as                          RGB D   D   D   D   D   D   D
tokens                            210 10  10  10  10  10  10  10   = 280

RGB slot   c c c ... c |   one row of `grid_cols` RGB tokens, then a newline; `grid_rows` times
P slot     m m m m | r r r r |   motion tokens, newline, residual tokens, newline
```

A keyframe (K per GOP) goes to the vision encoder; every other slot is a P slot for the Delta-encoder. A keyframe's
own primitives are not shown. Counts follow the paper's section H.5; the choice of GOPs for long videos its 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

from cope_cli.codec.gop import keyframe_slots
from cope_cli.errors import TooLongError, UsageError

#: Label of tokens that are not learned, as in transformers.
IGNORED_LABEL = -100
#: Keyframes per GOP of the paper's tables.
PAPER_TABLE_KEYFRAMES = (1, 2, 4)


class TokenKind(IntEnum):
    """What stands at one position of the language model's input; also the values of `VideoLMBatch.token_kind`."""

    TEXT = 0
    RGB = 1
    DELTA = 2
    NEWLINE = 3


@dataclass(frozen=True, kw_only=True)
class TokenCosts:
    """How many tokens one slot takes.

    Attributes:
        grid_rows: rows of RGB tokens per frame after pooling.
        grid_cols: columns of them.
        num_motion_tokens: Delta-tokens of the motion branch per P slot.
        num_residual_tokens: Delta-tokens of the residual branch per P slot.
    """

    grid_rows: int = 14
    grid_cols: int = 14
    num_motion_tokens: int = 4
    num_residual_tokens: int = 4

    def __post_init__(self) -> None:
        for name in ("grid_rows", "grid_cols", "num_motion_tokens", "num_residual_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")

    @property
    def rgb(self) -> int:
        """Tokens of an RGB slot: the grid and one newline per row (14 * 15 = 210)."""
        return self.grid_rows * (self.grid_cols + 1)

    @property
    def delta(self) -> int:
        """Tokens of a P slot: the Delta-tokens and one newline after each of the two groups (8 + 2 = 10)."""
        return self.num_motion_tokens + self.num_residual_tokens + 2


@dataclass(frozen=True, kw_only=True)
class PlannedSlot:
    """One slot that the model sees.

    Attributes:
        slot: index of the slot in the cache.
        gop: index of its GOP.
        is_rgb: True for a keyframe (RGB tokens), False for a P slot (Delta-tokens).
        window_seconds: length of its window; 0 for the first slot of a GOP, and if all windows have the same length.
    """

    slot: int
    gop: int
    is_rgb: bool
    window_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TokenPlan:
    """The slots shown to the model, in time order, and their tokens.

    Attributes:
        slots: the shown slots.
        costs: tokens per slot.
        num_gops_total: GOPs of the video.
        num_gops_used: GOPs of which slots are shown.
    """

    slots: tuple[PlannedSlot, ...]
    costs: TokenCosts
    num_gops_total: int
    num_gops_used: int

    @property
    def rgb_slots(self) -> tuple[int, ...]:
        """Cache indices of the slots shown as RGB, in time order."""
        return tuple(planned.slot for planned in self.slots if planned.is_rgb)

    @property
    def delta_slots(self) -> tuple[int, ...]:
        """Cache indices of the slots shown as Delta-tokens, in time order."""
        return tuple(planned.slot for planned in self.slots if not planned.is_rgb)

    @property
    def window_seconds(self) -> tuple[float, ...]:
        """Window length of each shown slot; 0 for a GOP's first slot, and if all windows have the same length."""
        return tuple(planned.window_seconds for planned in self.slots)

    @property
    def num_rgb_slots(self) -> int:
        """How many slots are shown as RGB."""
        return len(self.rgb_slots)

    @property
    def num_delta_slots(self) -> int:
        """How many slots are shown as Delta-tokens."""
        return len(self.delta_slots)

    @property
    def num_tokens(self) -> int:
        """All visual tokens, newlines included."""
        return tokens_per_gop(self.num_rgb_slots, self.num_delta_slots, self.costs)

    def token_kinds(self) -> list[int]:
        """Return the `TokenKind` of every visual token, in the order the language model sees them."""
        row = [int(TokenKind.RGB)] * self.costs.grid_cols + [int(TokenKind.NEWLINE)]
        rgb = row * self.costs.grid_rows
        groups = (self.costs.num_motion_tokens, self.costs.num_residual_tokens)
        delta = [kind for size in groups for kind in [int(TokenKind.DELTA)] * size + [int(TokenKind.NEWLINE)]]
        return [kind for planned in self.slots for kind in (rgb if planned.is_rgb else delta)]


def tokens_per_gop(keyframes: int, p_slots: int, costs: TokenCosts) -> int:
    """Return the visual tokens of a GOP with that many RGB and P slots: ``210 * K + 10 * P`` (section H.5)."""
    return keyframes * costs.rgb + p_slots * costs.delta


def sampled_gops(num_gops: int, total: int) -> tuple[int, ...]:
    """Return `num_gops` of `total` GOPs, evenly spaced: ``floor(i * total / n)`` (section 4.1)."""
    return tuple(i * total // num_gops for i in range(num_gops))


def plan_tokens(
    slot_gop: Sequence[int],
    *,
    keyframes_per_gop: int,
    costs: TokenCosts,
    max_gops: int = 64,
    max_visual_tokens: int | None = None,
    include_delta: bool = True,
    slot_window_seconds: Sequence[float] = (),
) -> TokenPlan:
    """Choose the slots that the model sees.

    All GOPs, if they fit. Otherwise the largest number n of GOPs that fits, evenly spaced, so that a long video is
    shown throughout. A GOP is shown whole or not at all.

    Args:
        slot_gop: the GOP index of each slot of the cache, in time order.
        keyframes_per_gop: K, slots per GOP shown as RGB; a GOP with fewer slots shows all of them.
        costs: tokens per slot.
        max_gops: upper bound for n.
        max_visual_tokens: upper bound for the tokens of the plan; None for no bound.
        include_delta: False leaves out the P slots ("I-frames only", section H.4).
        slot_window_seconds: length of each slot's window where they differ; the plan passes it on.

    Raises:
        UsageError: K or `max_gops` is below 1.
        TooLongError: not even one GOP fits `max_visual_tokens`.
        ValueError: no slots, or GOP indices that go back.
    """
    if keyframes_per_gop < 1 or max_gops < 1:
        raise UsageError(f"{keyframes_per_gop} keyframes per GOP and at most {max_gops} GOPs: both must be at least 1")
    gops = [
        _planned_gop([slot for slot, _ in group], gop, keyframes_per_gop, include_delta, slot_window_seconds)
        for gop, group in groupby(enumerate(slot_gop), key=lambda item: item[1])
    ]
    indices = [gop[0].gop for gop in gops]
    if not gops or indices != sorted(set(indices)):
        raise ValueError(f"not the GOP indices of a video's slots, which are some and never decrease: {slot_gop!r}")
    num_gops = _num_gops_that_fit([_cost(gop, costs) for gop in gops], max_gops, max_visual_tokens)
    slots = tuple(planned for index in sampled_gops(num_gops, len(gops)) for planned in gops[index])
    return TokenPlan(slots=slots, costs=costs, num_gops_total=len(gops), num_gops_used=num_gops)


def _planned_gop(
    slots: Sequence[int], gop: int, keyframes_per_gop: int, include_delta: bool, window_seconds: Sequence[float]
) -> list[PlannedSlot]:
    """Return the shown slots of one GOP."""
    keyframes = set(keyframe_slots(len(slots), keyframes_per_gop))
    return [
        PlannedSlot(
            slot=slot,
            gop=gop,
            is_rgb=position in keyframes,
            window_seconds=window_seconds[slot] if window_seconds else 0.0,
        )
        for position, slot in enumerate(slots)
        if include_delta or position in keyframes
    ]


def _cost(gop: Sequence[PlannedSlot], costs: TokenCosts) -> int:
    """Return the tokens of one GOP's shown slots."""
    num_rgb = sum(planned.is_rgb for planned in gop)
    return tokens_per_gop(num_rgb, len(gop) - num_rgb, costs)


def _num_gops_that_fit(gop_tokens: Sequence[int], max_gops: int, max_visual_tokens: int | None) -> int:
    """Return the largest number of evenly spaced GOPs within both bounds."""
    total = len(gop_tokens)
    if max_visual_tokens is None:
        return min(total, max_gops)
    # No n above this can fit. GOPs differ only where a scene cut or the video's end shortens one, so few n are tried.
    upper = min(total, max_gops, max_visual_tokens // min(gop_tokens))
    for num_gops in range(upper, 0, -1):
        if sum(gop_tokens[index] for index in sampled_gops(num_gops, total)) <= max_visual_tokens:
            return num_gops
    raise TooLongError(
        f"not even one GOP fits: the first takes {gop_tokens[0]} visual tokens, and {max_visual_tokens} are left",
        "Take fewer keyframes per GOP, a shorter question, or a model with a longer context.",
    )
