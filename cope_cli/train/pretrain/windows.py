"""What pre-training reads: pairs of one fusion window, or of several in equal parts; and the videos kept from it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.data.datasets import BadSample, PretrainDataset
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import DataError, EntryNotFoundError
from cope_cli.train.loop.setup import open_index
from cope_cli.train.pretrain.config import PretrainConfig
from cope_cli.train.pretrain.evaluation import held_out_names


class MixedPairs:
    """Pairs of several datasets, as many of each: an epoch takes from each what the smallest one has.

    The larger ones are gone through in a random order over several epochs; none of their pairs repeats before all
    have come. What an epoch holds depends on the seed and its number alone.

    Args:
        parts: pairs by fusion window.
        seed: draws the orders.
    """

    def __init__(self, parts: Mapping[int, PretrainDataset], seed: int) -> None:
        self.parts = dict(sorted(parts.items()))
        self.seed = seed
        self.epoch = 0
        self._per_part = min(len(part) for part in self.parts.values())
        self._orders: dict[tuple[int, int], list[int]] = {}

    def __len__(self) -> int:
        return self._per_part * len(self.parts)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch's pairs are read; `RankBatches` does before each epoch, on every rank."""
        self.epoch = epoch
        self._orders = {}

    def where(self, index: int) -> tuple[int, int]:
        """Return the window of a sample of this epoch, and its index among the pairs of that window."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        number, offset = divmod(index, self._per_part)
        window = list(self.parts)[number]
        count = len(self.parts[window])
        time_through, place = divmod(self.epoch * self._per_part + offset, count)
        return window, self._order(window, time_through, count)[place]

    def _order(self, window: int, time_through: int, count: int) -> list[int]:
        """Return the order in which a window's pairs are gone through for the n-th time."""
        key = (window, time_through)
        if key not in self._orders:
            order = list(range(count))
            random.Random(f"{self.seed}:{window}:{time_through}").shuffle(order)
            self._orders[key] = order
        return self._orders[key]

    def __getitem__(self, index: int) -> Any:
        """Read a pair; raises like `PretrainDataset`."""
        window, place = self.where(index)
        return self.parts[window][place]


@dataclass(frozen=True, kw_only=True)
class PretrainData:
    """The pairs of a cache, by fusion window.

    Attributes:
        entries: all entries that are read, by name.
        train: pairs to train on.
        held_out: pairs to evaluate on; empty if there are none.
        bad: entries left out because they cannot be used.
        note: says why nothing is held out though it was asked for; "" otherwise.
    """

    entries: Mapping[str, PrimitivesEntry]
    train: Mapping[int, PretrainDataset]
    held_out: Mapping[int, PretrainDataset]
    bad: tuple[BadSample, ...]
    note: str

    @property
    def datasets(self) -> tuple[PretrainDataset, ...]:
        """All of them."""
        return (*self.train.values(), *self.held_out.values())

    def pairs(self, seed: int) -> PretrainDataset | MixedPairs:
        """Return what is trained on: the pairs of the only window, or a mix."""
        return MixedPairs(self.train, seed) if len(self.train) > 1 else next(iter(self.train.values()))

    def entry_names(self, parts: Mapping[int, PretrainDataset]) -> list[str]:
        """Return the names of the entries that `train` or `held_out` reads, sorted."""
        return sorted(name for part in parts.values() for name in part.entry_names)


def open_pretrain_data(
    cache: Cache, config: PretrainConfig, *, size_px: int, features: str | None = None
) -> PretrainData:
    """Find the entries of every window and split their videos into those to train on and those held out.

    Args:
        cache: holds the primitives.
        config: windows, grid, share held out, seed.
        size_px: the vision encoder's input size V.
        features: name of the group of stored vision tokens to read instead of RGB slots.

    Raises:
        EntryNotFoundError: a window has no entries, or not of all videos; the hint has the commands that make them.
        DataError: there are no pairs to train on.
        CopeError: an entry cannot be used, and `skip_bad` is off.
    """
    by_window, bad = _entries_by_window(cache, config)
    entries = {name: entry for found in by_window.values() for name, entry in found.items()}
    held = held_out_names(entries, config.held_out, config.seed)

    def pairs(found: Mapping[str, PrimitivesEntry], *, is_held: bool) -> PretrainDataset:
        chosen = {name: entry for name, entry in found.items() if (name in held) == is_held}
        return PretrainDataset(cache.root, chosen, size_px=size_px, skip_bad=config.skip_bad > 0, features=features)

    train = {window: pairs(found, is_held=False) for window, found in by_window.items()}
    note, held_out = "", {}
    if config.held_out and not held:
        note = "nothing is held out for evaluation: the cache has a single video"
    elif held:
        try:
            held_out = {window: pairs(found, is_held=True) for window, found in by_window.items()}
        except DataError:
            note = "nothing is evaluated: the held-out videos are too short for a pair of slots"
    return PretrainData(entries=entries, train=train, held_out=held_out, bad=bad, note=note)


def _entries_by_window(
    cache: Cache, config: PretrainConfig
) -> tuple[dict[int, dict[str, PrimitivesEntry]], tuple[BadSample, ...]]:
    """Return each window's entries by name, and those that cannot be used."""
    if len(config.windows) == 1:
        index, unusable = open_index(cache, config)
        return {config.fusion_frames: index.entries}, tuple(unusable)
    indexes = {window: VideoIndex(cache, fusion_frames=window, grid_px=config.grid_px) for window in config.windows}
    errors = next(iter(indexes.values())).errors
    if errors and not config.skip_bad:
        raise next(iter(errors.values()))
    videos = {window: {entry.encoded_name for entry in index.entries.values()} for window, index in indexes.items()}
    everything = set().union(*videos.values())
    missing = {window: len(everything - found) for window, found in videos.items() if everything - found or not found}
    if missing:
        counts = ", ".join(
            f"window {window} of {count} of {len(everything)} videos" if count else f"window {window}"
            for window, count in missing.items()
        )
        commands = "; ".join(f"`cope extract --fusion {window} --grid {config.grid_px}`" for window in missing)
        raise EntryNotFoundError(
            f"{cache.root}: --fusion-mix {','.join(map(str, config.windows))} needs every window of every video; "
            f"primitives with grid {config.grid_px} are missing: {counts}",
            f"Run {commands}.",
        )
    bad = tuple(BadSample(where=f"entry {name}", message=error.message) for name, error in errors.items())
    return {window: index.entries for window, index in indexes.items()}, bad
