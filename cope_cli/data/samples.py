"""The arrays behind one sample: RGB frames and primitives of the slots that a plan shows, read from the cache.

Legend: N RGB frames, P P-slots, V vision input side, G grid side.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cope_cli.cache.features import Features
from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.data.prompt import Prompt
from cope_cli.errors import EntryNotFoundError
from cope_cli.model.token_plan import TokenPlan
from cope_cli.types import Int16, UInt8, UInt16

_NO_PICTURES = np.empty((2, 0, 0, 3), np.uint8)


@dataclass(frozen=True, kw_only=True)
class Visuals:
    """What the shown slots look like, in time order.

    Attributes:
        rgb: (N, V, V, 3) uint8.
        motion: (P, 2, G, G) int16, displacement (x, y) in half-pixels of the encoded stream.
        residual: (P, G, G, 3) int16, RGB in -255..255.
        frame_size_px: (P, 2) int32, width and height of the encoded stream.
    """

    rgb: UInt8
    motion: Int16
    residual: Int16
    frame_size_px: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Shortened:
    """A sample that shows fewer GOPs than asked for, because the model's context holds no more.

    Attributes:
        where: the item and the entry.
        num_gops: GOPs shown.
        num_gops_wanted: GOPs that were to be shown.
    """

    where: str
    num_gops: int
    num_gops_wanted: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample of finetuning, or one question to answer.

    Attributes:
        prompt: token ids, kinds, labels.
        visuals: frames and primitives in the order of their tokens.
        shortened: set if GOPs had to be left out.
    """

    prompt: Prompt
    visuals: Visuals
    shortened: Shortened | None = None


@dataclass(frozen=True, kw_only=True)
class PairSample:
    """Two neighbouring slots of a GOP, for pre-training (paper 3.3), as pictures or as stored vision tokens.

    Attributes:
        rgb: (2, V, V, 3) uint8, the previous slot and the P slot; V is 0 where tokens are read.
        motion: (2, G, G) int16, of the P slot.
        residual: (G, G, 3) int16, of the P slot.
        frame_size_px: (2,) int32, width and height of the encoded stream.
        tokens: (2, M, D) uint16 holding bfloat16, of both slots.
    """

    rgb: UInt8
    motion: Int16
    residual: Int16
    frame_size_px: NDArray[np.int32]
    tokens: UInt16 | None = None


def read_visuals(primitives: Primitives, frames: Frames, plan: TokenPlan, size_px: int) -> Visuals:
    """Read the slots of a plan.

    Args:
        primitives: the video's entry.
        frames: its RGB slots at the vision encoder's size.
        plan: the slots to show.
        size_px: side V, for a plan without RGB slots.

    Raises:
        LookupError: an RGB slot was never stored.
        CacheCorruptError: a checksum fails.
    """
    empty = np.empty((0, size_px, size_px, 3), np.uint8)
    motion, residual = primitives.p_slots(plan.delta_slots)
    return Visuals(
        rgb=frames.rgbs(plan.rgb_slots) if plan.rgb_slots else empty,
        motion=motion,
        residual=residual,
        frame_size_px=np.tile(_frame_size_px(primitives), (len(motion), 1)),
    )


def read_pair(primitives: Primitives, shown: Frames | Features, slot: int) -> PairSample:
    """Read a P slot and the previous slot; raises like `read_visuals`.

    Args:
        primitives: the video's entry.
        shown: its RGB slots, or the vision tokens stored of them.
        slot: the P slot.

    Raises:
        LookupError: `slot` is an I-frame slot: it has no motion from the previous slot.
    """
    motion, residual = primitives.motion(slot), primitives.residual(slot)
    pictures, tokens = _NO_PICTURES, None
    if isinstance(shown, Features):
        tokens = np.stack([shown.tokens(slot - 1), shown.tokens(slot)])
    else:
        pictures = shown.rgbs((slot - 1, slot))
    return PairSample(
        rgb=pictures,
        motion=motion,
        residual=residual,
        frame_size_px=_frame_size_px(primitives),
        tokens=tokens,
    )


def _frame_size_px(primitives: Primitives) -> NDArray[np.int32]:
    return np.array([primitives.size.width, primitives.size.height], np.int32)


class _OpenEntry:
    """One entry's readers. RGB slots are opened when first read, after every stage that may add some."""

    def __init__(self, entry: PrimitivesEntry, size_px: int) -> None:
        self._entry = entry
        self._size_px = size_px
        self._features: dict[str, Features] = {}
        self.primitives = Primitives(entry)

    @cached_property
    def frames(self) -> Frames:
        return Frames(self._entry, self._size_px)

    def features(self, model: str) -> Features:
        if model not in self._features:
            self._features[model] = Features(self._entry, model)
        return self._features[model]


class OpenEntries:
    """Cache entries by name, opened when first read, the most recent ones kept open.

    Each process opens its own: a copy sent to a worker, or made by a fork, starts with none.

    Args:
        cache_root: the cache folder.
        size_px: side V of the RGB slots.
        max_open: how many to keep open: opening costs some milliseconds, an open one holds no file and about 0.1 MB.
    """

    def __init__(self, cache_root: Path, size_px: int, max_open: int = 4096) -> None:
        self.cache_root = cache_root
        self.size_px = size_px
        self.max_open = max_open
        self._open: OrderedDict[str, _OpenEntry] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is open behind."""
        return {**self.__dict__, "_open": OrderedDict()}

    def primitives(self, name: str) -> Primitives:
        """Return an entry's primitives.

        Raises:
            EntryNotFoundError: it is gone.
            CacheCorruptError, CacheVersionError: it cannot be used.
        """
        return self._get(name).primitives

    def frames(self, name: str) -> Frames:
        """Return an entry's RGB slots, those there when this is first called; raises like `primitives`."""
        return self._get(name).frames

    def features(self, name: str, model: str) -> Features:
        """Return an entry's stored vision tokens of one encoder; as `frames` does with RGB slots."""
        return self._get(name).features(model)

    def _get(self, name: str) -> _OpenEntry:
        if self._process != os.getpid():
            self._open, self._process = OrderedDict(), os.getpid()
        if name not in self._open:
            entry = Cache(self.cache_root).primitives_entry(name)
            if entry is None:
                raise EntryNotFoundError(f"{self.cache_root}: entry {name} is gone", "Run `cope extract` again.")
            self._open[name] = _OpenEntry(entry, self.size_px)
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]
