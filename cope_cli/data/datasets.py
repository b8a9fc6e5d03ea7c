"""Map-style datasets over the cache: pairs of slots for pre-training, conversations for finetuning.

What can be checked cheaply is checked when a dataset is built: that every item has an entry. The rest shows when a
sample is read. A sample that cannot be read raises; with `skip_bad` it comes back as a `BadSample`, which the
collator leaves out and passes on by name. It is never replaced by another sample.

A sample is a function of the cache, the data file, its index, and for conversations the seed and the epoch: no random
choice depends on anything else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import numpy as np

from cope_cli.cache.store import PrimitivesEntry
from cope_cli.data.conversations import Item
from cope_cli.data.draws import drawn_number
from cope_cli.data.keyframes import KeyframeMix
from cope_cli.data.packing import pack_prompts
from cope_cli.data.prompt import Prompt, PromptBuilder, Timeline
from cope_cli.data.samples import OpenEntries, PairSample, Sample, Shortened, read_pair, read_visuals
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import CopeError, DataError, TooLongError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BadSample:
    """A sample that could not be read and is left out.

    Attributes:
        where: the item or the pair.
        message: what is wrong with it.
        is_too_long: nothing is wrong but that not even one of its GOPs fits the model's context.
    """

    where: str
    message: str
    is_too_long: bool = False


class FinetuneDataset:
    """Conversations about videos of the cache.

    Args:
        items: the conversations.
        index: the cache's entries.
        builder: makes prompts for the model to train.
        size_px: the vision encoder's input size V.
        keyframes: keyframes per GOP, drawn for each sample and epoch; None for the builder's.
        seed: decides the draw.
        video_root: the folder that the items' paths are relative to; see `VideoIndex.find`.
        skip_bad: leave out what cannot be read instead of raising.
        pack: up to this many items of one video make a sample; which ones, is drawn anew in each epoch.

    Attributes:
        bad: items left out when the dataset was built.
        epoch: which pass over the data samples are read for; `set_epoch` changes it.

    Raises:
        DataError: an item has no entry in the cache, or none has.
    """

    def __init__(
        self,
        items: Sequence[Item],
        index: VideoIndex,
        builder: PromptBuilder,
        *,
        size_px: int,
        keyframes: KeyframeMix | None = None,
        seed: int = 0,
        video_root: Path | None = None,
        skip_bad: bool = False,
        pack: int = 1,
    ) -> None:
        self.builder = builder
        self.keyframes = keyframes or KeyframeMix.parse(builder.keyframes_per_gop)
        self.seed = seed
        self.epoch = 0
        self.skip_bad = skip_bad
        self.bad: list[BadSample] = []
        self._entries = OpenEntries(index.cache.root, size_px)
        found_items: list[_Found] = []
        entry_name = cache(lambda video: index.find(video, video_root=video_root).name)  # many items share a video
        for number, item in enumerate(items):
            try:
                name = entry_name(item.video)
                found_items.append(_Found(item=item, name=name, sample_id=f"{number}:{item.id}"))
            except CopeError as error:
                if not skip_bad:
                    raise DataError(f"{item.where}: {error.message}", error.hint) from error
                self.bad.append(BadSample(where=item.where, message=error.message))
        if not found_items:
            raise DataError(f"none of the {len(items)} items has a video in {index.cache.root}", _first(self.bad))
        self._packs = _packs(found_items, pack)

    def __len__(self) -> int:
        return len(self._packs)

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass over the data that samples are read for, counted from 0."""
        self.epoch = epoch

    @property
    def entry_names(self) -> list[str]:
        """Names of the entries that are read, each once."""
        return sorted({pack.name for pack in self._packs})

    def rgb_slots(self, name: str) -> tuple[int, ...]:
        """Return the slots of an entry that some sample may show as RGB, in whatever epoch."""
        timeline = Timeline.of(self._entries.primitives(name))
        slots: set[int] = set()
        for builder in self._builders():
            plan = builder.plan(timeline)
            slots.update(plan.rgb_slots)
            if plan.num_gops_used < plan.num_gops_total:  # fewer GOPs may be other GOPs: the text decides how many
                for pack in self._packs:
                    if pack.name == name:
                        for found in pack.items:
                            slots.update(_rgb_slots(builder, found.item, timeline))
        return tuple(sorted(slots))

    def _builders(self) -> list[PromptBuilder]:
        """Return a builder for each number of keyframes that may be drawn."""
        return [replace(self.builder, keyframes_per_gop=keyframes) for keyframes in self.keyframes.counts]

    def drawn_keyframes(self, index: int) -> int:
        """Return K of a sample in the present epoch."""
        return self.keyframes.draw(seed=self.seed, epoch=self.epoch, sample=self._packs[index].sample_id)

    def lengths(self) -> list[int]:
        """Return about how many tokens each sample has: its video's, and its text's at four characters a token.

        A packed sample's text varies with the epoch: counted is its share of its video's.

        An entry that cannot be read counts as no tokens; its samples fail when they are read.
        """
        visual: dict[str, int] = {}
        for name in self.entry_names:
            try:
                timeline = Timeline.of(self._entries.primitives(name))
            except CopeError:
                visual[name] = 0
            else:
                visual[name] = self.builder.plan(timeline).num_tokens
        return [
            visual[pack.name]
            + sum(len(t.question) + len(t.answer) for found in pack.items for t in found.item.turns)
            * pack.num_drawn
            // (4 * len(pack.items))
            for pack in self._packs
        ]

    def __getitem__(self, index: int) -> Sample | BadSample:
        """Read a sample.

        Raises:
            DataError: it cannot be read and `skip_bad` is off; names the item and the entry.
        """
        pack = self._packs[index]
        drawn = pack.drawn(seed=self.seed, epoch=self.epoch)
        where = f"{drawn[0].item.where}, entry {pack.name}"
        if len(drawn) > 1:
            where = f"{len(drawn)} items in one sample, the first {where}"
        keyframes = self.drawn_keyframes(index)
        return _read(where, lambda: self._sample(where, pack.name, drawn, keyframes), self.skip_bad)

    def _sample(self, where: str, name: str, drawn: Sequence[_Found], keyframes: int) -> Sample:
        primitives, frames = self._entries.primitives(name), self._entries.frames(name)
        builder = replace(self.builder, keyframes_per_gop=keyframes)
        prompt = _prompt(builder, drawn, Timeline.of(primitives))
        wanted = min(prompt.plan.num_gops_total, builder.max_gops)
        shortened = Shortened(where=where, num_gops=prompt.plan.num_gops_used, num_gops_wanted=wanted)
        return Sample(
            prompt=prompt,
            visuals=read_visuals(primitives, frames, prompt.plan, self._entries.size_px),
            shortened=shortened if shortened.num_gops < wanted else None,
        )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """An item, the entry of its video, and what draws for it depend on: its place in the data and its own id."""

    item: Item
    name: str
    sample_id: str


@dataclass(frozen=True, kw_only=True)
class _Pack:
    """One sample: a share of the items of one video, which may be all of them, or a single one.

    Attributes:
        name: the entry of the video.
        items: of which some are drawn in each epoch.
        start: the first that is drawn, in that epoch's order.
        num_drawn: how many are.
        sample_id: what draws depend on.
    """

    items: tuple[_Found, ...]
    start: int = 0
    num_drawn: int = 1
    sample_id: str

    @property
    def name(self) -> str:
        return self.items[0].name

    def drawn(self, *, seed: int, epoch: int) -> Sequence[_Found]:
        """Return an epoch's items: a function of seed, epoch and items alone."""
        if len(self.items) == 1:
            return self.items
        order = sorted(self.items, key=lambda found: drawn_number("pack", seed, epoch, found.sample_id))
        return order[self.start : self.start + self.num_drawn]


def _packs(items: Sequence[_Found], size: int) -> list[_Pack]:
    """Return the samples that items make, in the order of their first items."""
    if size == 1:
        return [_Pack(items=(found,), sample_id=found.sample_id) for found in items]
    by_name: dict[str, list[_Found]] = {}
    for found in items:
        by_name.setdefault(found.name, []).append(found)
    packs = []
    for group in by_name.values():
        # Packs of about equal size, rather than full ones and a small rest.
        num_packs = -(-len(group) // size)
        ends = [round((number + 1) * len(group) / num_packs) for number in range(num_packs)]
        for start, end in zip([0, *ends], ends, strict=False):
            sample_id = f"{group[0].sample_id}+{start}"
            packs.append(_Pack(items=tuple(group), start=start, num_drawn=end - start, sample_id=sample_id))
    return packs


def _prompt(builder: PromptBuilder, drawn: Sequence[_Found], timeline: Timeline) -> Prompt:
    """Return the prompt of a sample's items, all with the same GOPs: as many as the longest leaves room for."""
    prompts = [builder.finetune(found.item.turns, timeline) for found in drawn]
    if len(prompts) == 1:
        return prompts[0]
    num_gops = min(prompt.plan.num_gops_used for prompt in prompts)
    if any(prompt.plan.num_gops_used != num_gops for prompt in prompts):
        fewer = replace(builder, max_gops=num_gops)
        prompts = [fewer.finetune(found.item.turns, timeline) for found in drawn]
    return pack_prompts(prompts)


def _rgb_slots(builder: PromptBuilder, item: Item, timeline: Timeline) -> tuple[int, ...]:
    """Return the slots that one item shows as RGB; none if it is refused, which reading it will say."""
    try:
        return builder.finetune(item.turns, timeline).plan.rgb_slots
    except TooLongError:
        return ()


class PretrainDataset:
    """Every pair of neighbouring slots inside a GOP, I to P and P to P; none crosses an I-frame.

    Args:
        cache_root: the cache folder.
        entries: the entries to take pairs of, by name.
        size_px: the vision encoder's input size V.
        skip_bad: leave out what cannot be read instead of raising.
        features: the cache's name of the vision encoder whose stored tokens are read instead of RGB slots.

    Raises:
        DataError: there is not a single pair.
    """

    def __init__(
        self,
        cache_root: Path,
        entries: Mapping[str, PrimitivesEntry],
        *,
        size_px: int,
        skip_bad: bool = False,
        features: str | None = None,
    ) -> None:
        self.skip_bad = skip_bad
        self.features = features
        self._entries = OpenEntries(cache_root, size_px)
        counts = {name: _num_pairs(entry) for name, entry in sorted(entries.items())}
        self.entry_names = [name for name, count in counts.items() if count]
        self._ends = list(accumulate(counts[name] for name in self.entry_names))
        if not self._ends:
            raise DataError(
                f"{cache_root}: {len(entries)} entries, and no P-frame slot in any of them",
                "Encode and extract longer videos, or extract with a smaller --fusion.",
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def rgb_slots(self, name: str) -> tuple[int, ...]:
        """Return the slots of an entry that pairs are made of."""
        later = self.pair_slots(name)
        return tuple(sorted({*later, *(slot - 1 for slot in later)}))

    def pair_slots(self, name: str) -> tuple[int, ...]:
        """Return the later slot of each pair of an entry: its P slots, each of which has a previous slot."""
        is_iframe = self._entries.primitives(name).slots.is_iframe
        return tuple(int(slot) for slot in np.flatnonzero(~is_iframe))

    def __getitem__(self, index: int) -> PairSample | BadSample:
        """Read a pair; raises like `FinetuneDataset`."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        name = self.entry_names[number]
        pair = index - (self._ends[number - 1] if number else 0)
        return _read(f"pair {pair} of entry {name}", lambda: self._pair(name, pair), self.skip_bad)

    def _pair(self, name: str, pair: int) -> PairSample:
        entries = self._entries
        primitives = entries.primitives(name)
        slot = int(np.flatnonzero(~primitives.slots.is_iframe)[pair])
        shown = entries.frames(name) if self.features is None else entries.features(name, self.features)
        return read_pair(primitives, shown, slot)


def _num_pairs(entry: PrimitivesEntry) -> int:
    info = entry.manifest.info
    return int(info["num_slots"]) - int(info["num_iframe_slots"])


def _read(where: str, read: Callable[[], T], skip_bad: bool) -> T | BadSample:
    """Read a sample under the policy for those that cannot be read."""
    try:
        return read()
    except (CopeError, LookupError) as error:
        message = error.message if isinstance(error, CopeError) else str(error)
        if skip_bad:
            return BadSample(where=where, message=message, is_too_long=isinstance(error, TooLongError))
        hint = error.hint if isinstance(error, CopeError) else ""
        raise DataError(f"{where}: {message}", hint or "Mend it, or leave such samples out with --skip-bad.") from error


def _first(bad: Sequence[BadSample]) -> str:
    return f"The first: {bad[0].where}: {bad[0].message}" if bad else ""
