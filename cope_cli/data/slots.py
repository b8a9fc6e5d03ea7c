"""`SlotDataset`: the slots of a cache as tensors, for models other than cope's own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, cache_folder
from cope_cli.data.samples import OpenEntries
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import EntryNotFoundError, UsageError


def _motion(primitives: Primitives, slot: int) -> Tensor:
    if primitives.slots.is_iframe[slot]:
        return torch.zeros((2, primitives.grid_px, primitives.grid_px), dtype=torch.int16)
    return torch.from_numpy(primitives.motion(slot))


def _residual(primitives: Primitives, slot: int) -> Tensor:
    if primitives.slots.is_iframe[slot]:
        return torch.zeros((primitives.grid_px, primitives.grid_px, 3), dtype=torch.int16)
    return torch.from_numpy(primitives.residual(slot))


#: What a dataset can return of a slot, by name.
_READERS: Mapping[str, Callable[[Primitives, int], Tensor]] = {
    "motion": _motion,
    "residual": _residual,
    "frame": lambda primitives, slot: torch.from_numpy(primitives.grid_frame(slot)),
    "seconds": lambda primitives, slot: torch.tensor(primitives.slots.seconds[slot]),
    "is_iframe": lambda primitives, slot: torch.tensor(bool(primitives.slots.is_iframe[slot])),
}


class SlotDataset(Dataset[dict[str, Tensor]]):
    """All slots of all videos of a cache that were extracted with these settings, as a map-style torch dataset.

    The order is that of the entries' names, then of time. A copy in a DataLoader's worker opens its own files.

    Args:
        cache: the cache folder (default: `COPE_CACHE`, or `cope_cache`); `~` is expanded.
        fusion: fusion window in frames.
        grid: side G of the grid.
        direct: use the videos that were read directly instead of the re-encoded ones.
        returns: what an item holds: "motion", (2, G, G) int16 half-pixels, zero for I-frame slots; "residual",
            (G, G, 3) int16, zero for I-frame slots; "frame", the picture on the grid, (G, G, 3) uint8; "seconds",
            float64; "is_iframe", bool. Every item also holds "video", the index of its name in `videos`, and "slot",
            its index in the video, both int64.

    Attributes:
        videos: names of the entries.

    Raises:
        EntryNotFoundError: the cache has no video with these settings.
        UsageError: `returns` has a name that does not exist.
        CacheCorruptError, CacheVersionError: an entry cannot be used.
    """

    def __init__(
        self,
        cache: str | Path | None = None,
        *,
        fusion: int = 30,
        grid: int = 224,
        direct: bool = False,
        returns: Sequence[str] = ("motion", "residual"),
    ) -> None:
        if unknown := sorted({*returns} - {*_READERS}):
            raise UsageError(f"returns: unknown: {', '.join(unknown)}; expected some of {', '.join(_READERS)}")
        self.root = cache_folder(cache)
        index = VideoIndex(Cache(self.root), fusion_frames=fusion, grid_px=grid)
        if index.errors:
            raise next(iter(index.errors.values()))
        entries = {name: entry for name, entry in index.entries.items() if entry.is_direct == direct}
        if not entries:
            raise EntryNotFoundError(
                f"{self.root}: no {'direct' if direct else 're-encoded'} video with fusion {fusion} and grid {grid}",
                f"Run `cope extract VIDEOS {'--direct ' if direct else ''}--fusion {fusion} --grid {grid}`.",
            )
        self.fusion, self.grid, self.returns = fusion, grid, tuple(returns)
        self.videos = sorted(entries)
        counts = [int(entries[name].manifest.info["num_slots"]) for name in self.videos]
        self._starts = [0, *accumulate(counts)]
        self._open = OpenEntries(self.root, size_px=0)

    def __repr__(self) -> str:
        return (
            f"SlotDataset({str(self.root)!r}: {len(self)} slots of {len(self.videos)} videos, fusion {self.fusion}, "
            f"grid {self.grid}, returns {', '.join(self.returns)})"
        )

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return a slot's tensors by name; raises IndexError, and CacheCorruptError where a checksum fails."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"slot {index}: expected {-len(self)} to {len(self) - 1}")
        index = int(np.mod(index, len(self)))
        video = bisect_right(self._starts, index) - 1
        slot = index - self._starts[video]
        primitives = self._open.primitives(self.videos[video])
        values = {name: _READERS[name](primitives, slot) for name in self.returns}
        return {**values, "video": torch.tensor(video), "slot": torch.tensor(slot)}
