"""Vision tokens computed once per slot and kept in the cache (`--store-features`), instead of in every step.

They are what `VideoLM.vision_tokens` returns in float32, rounded to bfloat16.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from cope_cli.cache.features import Features, FeaturesWriter
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.codec.versions import library_versions
from cope_cli.errors import CopeError, DataError, UsageError
from cope_cli.model.videolm import VideoLM
from cope_cli.stages.frames import decode_frames
from cope_cli.train.loop.ranks import Ranks
from cope_cli.types import OnItem, OnProgress, UInt8, UInt16

#: More than this many bytes are not stored without being asked twice.
LIMIT_BYTES = 10_000_000_000
_VALUE_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class VisionKey:
    """Which vision encoder tokens come from: all that decides their values.

    Attributes:
        vision_sha256: hash of the tower's weights.
        feature_layer: index of the layer that is read.
        size_px: input size V.
        num_tokens: M, per slot.
        token_width: D.
    """

    vision_sha256: str
    feature_layer: int
    size_px: int
    num_tokens: int
    token_width: int

    @classmethod
    def of(cls, model: VideoLM, vision_sha256: str) -> VisionKey:
        """Describe a model's vision encoder."""
        config = model.base.config
        return cls(
            vision_sha256=vision_sha256,
            feature_layer=int(config.vision_feature_layer),
            size_px=model.vision_size_px,
            num_tokens=model.patches_per_side**2,
            token_width=int(config.vision_config.hidden_size),
        )

    @property
    def name(self) -> str:
        """Name of the group in the cache, 12 hex digits."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]

    @property
    def shape(self) -> tuple[int, int]:
        """(M, D)."""
        return self.num_tokens, self.token_width

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot's tokens before compression, of which little comes."""
        return self.num_tokens * self.token_width * _VALUE_BYTES


def missing_slots(
    entries: Mapping[str, PrimitivesEntry], slots_of: Mapping[str, Collection[int]], key: VisionKey
) -> dict[str, list[int]]:
    """Return the slots of each entry whose tokens are not stored, without entries that have all."""
    missing = {name: sorted(set(slots) - Features(entries[name], key.name).slots) for name, slots in slots_of.items()}
    return {name: slots for name, slots in missing.items() if slots}


def check_size(num_slots: int, key: VisionKey, *, is_accepted: bool) -> str:
    """Return in words what storing will take on disk.

    Raises:
        UsageError: more than `LIMIT_BYTES`, and that was not accepted.
    """
    size = num_slots * key.slot_bytes
    text = (
        f"--store-features: vision tokens of {num_slots} slots, {key.slot_bytes / 1e6:.2f} MB each, "
        f"take up to {size / 1e9:.2f} GB in the cache"
    )
    if size > LIMIT_BYTES and not is_accepted:
        raise UsageError(f"{text}: more than {LIMIT_BYTES / 1e9:.0f} GB", "Say --yes to store them all the same.")
    return text


def share_of(missing: Mapping[str, list[int]], ranks: Ranks) -> dict[str, list[int]]:
    """Return the entries whose tokens this rank is to store: each entry has one rank, and all have about as much."""
    by_size = sorted(missing, key=lambda name: (-len(missing[name]), name))
    return {name: missing[name] for name in by_size[ranks.index :: ranks.count]}


def store_features(
    cache: Cache,
    entries: Mapping[str, PrimitivesEntry],
    missing: Mapping[str, list[int]],
    model: VideoLM,
    key: VisionKey,
    *,
    batch_size: int,
    skip_bad: bool,
    on_entry: OnItem = lambda entry, done, total: None,
) -> None:
    """Compute and store vision tokens of slots, entry by entry, each whole or not at all.

    An entry that cannot be used is passed over under `skip_bad`: its samples fail one by one when they are read.

    Args:
        cache: where the entries and the encoded videos are.
        entries: by name.
        missing: the slots to store, by entry.
        model: has the vision encoder, where it is to run.
        key: describes it.
        batch_size: frames at a time.
        skip_bad: pass over entries that cannot be used.
        on_entry: called with (entry, seconds done, seconds in all).

    Raises:
        DataError: an entry's frames cannot be had, and `skip_bad` is off.
    """
    for name, slots in missing.items():

        def report(done: float, total: float, name: str = name) -> None:
            on_entry(name, done, total)

        try:
            with cache.workspace() as workspace:
                folder = workspace / "part"
                writer = FeaturesWriter(folder, slots, key.shape, vars(key))
                for tokens in _tokens(cache, entries[name], slots, model, batch_size, report):
                    writer.append(tokens)
                writer.commit(entries[name], key.name, library_versions())
        except CopeError as error:
            if not skip_bad:
                raise DataError(f"entry {name}: {error.message}", error.hint) from error


def _tokens(
    cache: Cache,
    entry: PrimitivesEntry,
    slots: list[int],
    model: VideoLM,
    batch_size: int,
    on_progress: OnProgress,
) -> Iterator[UInt16]:
    """Decode slots and yield the vision tokens of each."""
    waiting: list[UInt8] = []
    frames = decode_frames(cache, entry, model.vision_size_px, slots, on_progress=on_progress)
    for number, rgb in enumerate(frames, start=1):
        waiting.append(rgb)
        if len(waiting) == batch_size or number == len(slots):
            yield from as_bfloat16(model, np.stack(waiting))
            waiting = []


@torch.no_grad()
def as_bfloat16(model: VideoLM, rgb: UInt8) -> UInt16:
    """Return the vision tokens of frames (N, V, V, 3): (N, M, D) uint16 holding bfloat16."""
    parameter = next(iter(model.vision_parameters()))
    tokens = model.vision_tokens(torch.from_numpy(rgb).to(parameter.device))
    values: UInt16 = tokens.to(torch.bfloat16).cpu().view(torch.int16).numpy().view(np.uint16)
    return values
