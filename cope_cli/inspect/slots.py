"""The slots of an entry as a person looks at them: what each is, what it costs, how much happens in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cope_cli.cache.primitives import Primitives
from cope_cli.errors import UsageError
from cope_cli.inspect.energy import SlotEnergy, slot_energy
from cope_cli.model.token_plan import PAPER_TABLE_KEYFRAMES, TokenCosts, TokenPlan, plan_tokens
from cope_cli.types import Int16, OnProgress, UInt8

#: Slots that pictures are made of unless an end is given: four minutes at one slot a second, one GOP at `--fusion 1`.
MAX_SLOTS = 240


@dataclass(frozen=True, kw_only=True)
class SlotRow:
    """One slot in a table.

    Attributes:
        slot: its index.
        frame: its frame in the encoded stream.
        seconds: its time.
        gop: index of its GOP.
        is_iframe: I-frame slot or P-frame slot.
        window_frames: length of its own window, in frames of the encoded stream, where windows are adaptive; None for
            an I-frame slot, and where all windows are of one length.
        tokens: what it costs at each of `PAPER_TABLE_KEYFRAMES`; 0 where its GOP is not shown.
        energy: what happened since the previous slot; None for an I-frame slot.
    """

    slot: int
    frame: int
    seconds: float
    gop: int
    is_iframe: bool
    window_frames: int | None
    tokens: tuple[int, ...]
    energy: SlotEnergy | None


@dataclass(frozen=True, kw_only=True)
class SlotPictures:
    """The pictures of one slot, all on the grid (G x G, RGB); an I-frame slot has only its frame.

    Attributes:
        slot: its index.
        frame: (G, G, 3) uint8, what Eq. 1 gives back.
        previous: (G, G, 3) uint8, the frame of the previous slot.
        motion: (2, G, G) int16, half-pixels of the encoded stream.
        residual: (G, G, 3) int16.
        compensated: (G, G, 3) uint8, the previous slot moved by `motion`: the frame minus the residual.
    """

    slot: int
    frame: UInt8
    previous: UInt8 | None = None
    motion: Int16 | None = None
    residual: Int16 | None = None
    compensated: UInt8 | None = None


def plans_of(primitives: Primitives, costs: TokenCosts | None = None) -> tuple[TokenPlan, ...]:
    """Return the token plan of the whole video for each of `PAPER_TABLE_KEYFRAMES`, at most 64 GOPs as in the paper."""
    slot_gop = primitives.slots.gop.tolist()
    costs = costs or TokenCosts()
    return tuple(plan_tokens(slot_gop, keyframes_per_gop=keyframes, costs=costs) for keyframes in PAPER_TABLE_KEYFRAMES)


def slot_range(
    primitives: Primitives, *, from_seconds: float, to_seconds: float | None, max_slots: int | None
) -> tuple[range, str]:
    """Return the slots between two times, and a note if there are more of them than `max_slots`.

    Args:
        primitives: the entry.
        from_seconds: slots before it are left out.
        to_seconds: slots at it or after are left out; with an end given there is no other limit.
        max_slots: the limit without one; None for none.

    Raises:
        UsageError: no slot lies between.
    """
    seconds = primitives.slots.seconds
    first = int(np.searchsorted(seconds, from_seconds, side="left"))
    last = len(seconds) if to_seconds is None else int(np.searchsorted(seconds, to_seconds, side="left"))
    if first >= last:
        until = "the end" if to_seconds is None else f"--to {to_seconds:g}"
        raise UsageError(
            f"--from {from_seconds:g}: no slot from there to {until}; "
            f"the slots are at {seconds[0]:g} to {seconds[-1]:g} s"
        )
    if to_seconds is not None or max_slots is None or last - first <= max_slots:
        return range(first, last), ""
    shown = range(first, first + max_slots)
    return shown, (
        f"slots {shown[0]} to {shown[-1]} of {len(seconds)} are shown; --from {seconds[shown.stop]:g} shows the next, "
        f"--to {int(seconds[-1]) + 1} all of them"
    )


def slot_rows(
    primitives: Primitives,
    slots: Sequence[int],
    plans: Sequence[TokenPlan],
    on_progress: OnProgress = lambda done, total: None,
) -> list[SlotRow]:
    """Measure slots.

    Args:
        primitives: the entry.
        slots: indices.
        plans: token plans of the whole video.
        on_progress: called with (slots done, slots in all).

    Raises:
        CacheCorruptError: a checksum fails.
    """
    table = primitives.slots
    costs = [
        {planned.slot: plan.costs.rgb if planned.is_rgb else plan.costs.delta for planned in plan.slots}
        for plan in plans
    ]
    is_adaptive = primitives.config.adaptive
    rows = []
    for done, slot in enumerate(slots):
        is_iframe = bool(table.is_iframe[slot])
        rows.append(
            SlotRow(
                slot=slot,
                frame=int(table.frame[slot]),
                seconds=float(table.seconds[slot]),
                gop=int(table.gop[slot]),
                is_iframe=is_iframe,
                window_frames=primitives.window_frames(slot) if is_adaptive and not is_iframe else None,
                tokens=tuple(cost.get(slot, 0) for cost in costs),
                energy=None if is_iframe else slot_energy(primitives.motion(slot), primitives.residual(slot)),
            )
        )
        on_progress(done + 1, len(slots))
    return rows


def slot_pictures(primitives: Primitives, slots: range) -> Iterator[SlotPictures]:
    """Yield the pictures of a run of slots, rebuilt from the I-frame slot at or before the first.

    Raises:
        CacheCorruptError: a checksum fails, or the arrays do not belong together.
    """
    is_iframe = primitives.slots.is_iframe
    start = max((int(slot) for slot in np.flatnonzero(is_iframe[: slots.start + 1])), default=0)
    previous: UInt8 | None = None
    for slot, frame in zip(range(start, slots.stop), primitives.grid_frames(start), strict=False):
        if slot >= slots.start:
            if is_iframe[slot]:
                yield SlotPictures(slot=slot, frame=frame)
            else:
                residual = primitives.residual(slot)
                yield SlotPictures(
                    slot=slot,
                    frame=frame,
                    previous=previous,
                    motion=primitives.motion(slot),
                    residual=residual,
                    compensated=(frame - residual).astype(np.uint8),
                )
        previous = frame


def typical_slot(rows: Sequence[SlotRow]) -> int:
    """Return the slot that shows best what motion explains: the most motion at an ordinary residual.

    At a cut the vectors are long and mean nothing, and the residual is far above the median: such slots do not count.
    Without a P-frame slot, it is the first I-frame slot.
    """
    energies = [(row.slot, row.energy) for row in rows if row.energy is not None]
    moving = [energy.residual_mean_levels for _, energy in energies if energy.moved_share > 0]
    limit = 2 * float(np.median(moving)) if moving else math.inf
    ordinary = [(slot, energy) for slot, energy in energies if energy.residual_mean_levels <= limit]
    if not ordinary:
        return rows[0].slot
    return max(ordinary, key=lambda found: (found[1].motion_mean_px, found[1].residual_mean_levels))[0]
