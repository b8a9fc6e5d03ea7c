"""What both recipes set up: the base model, fresh weights by seed, the RGB slots a dataset needs, the run's record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.codec.versions import library_versions
from cope_cli.data.datasets import BadSample
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import CheckpointError, CopeError, DataError, EntryNotFoundError
from cope_cli.model.checkpoint.adapter import is_adapter
from cope_cli.model.checkpoint.folders import load_videolm, vision_tower_sha256
from cope_cli.model.checkpoint.hub import model_folder
from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.model.videolm import VideoLM
from cope_cli.runs import Kind, RunFolder
from cope_cli.stages.frames import ensure_frames
from cope_cli.train.config import TrainConfig
from cope_cli.train.finetune.config import FinetuneConfig
from cope_cli.train.loop.ranks import Ranks, join_ranks
from cope_cli.train.loop.sharding import check_fsdp
from cope_cli.train.pretrain.config import PretrainConfig
from cope_cli.types import OnItem

#: Called with (step, steps in all, what was logged).
OnStep = Callable[[int, int, Mapping[str, float]], None]
#: Called with what config.json says, before training.
OnBegin = Callable[[Mapping[str, Any]], None]
#: The small model's weights are always these: pretrain and finetune must agree on its vision tower.
SMALL_MODEL_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that training starts from.

    Attributes:
        model: in the type that `load_base` was asked for.
        tokenizer: its tokenizer.
        vision_sha256: hash of its vision tower.
        fusion_frames: the fusion window it was trained with; None for the small model and published ones, which
            were not.
        described: in words, for the run's record.
    """

    model: VideoLM
    tokenizer: Any
    vision_sha256: str
    fusion_frames: int | None
    described: str


def open_run(kind: Kind, folder: Path, config: TrainConfig, *, resume: bool) -> tuple[Ranks, RunFolder]:
    """Return this process among the ranks, and the run's folder once it is known that the run may begin or resume.

    Raises:
        UsageError: the folder is taken, the run there cannot be resumed, or `--fsdp` would not shard anything.
        RanksError: started by torchrun, and another rank did not come.
    """
    ranks = join_ranks(cpu=config.is_cpu, timeout_minutes=config.rank_timeout_minutes)
    check_fsdp(config, ranks)
    run = RunFolder(folder, kind)
    settings = config.settings(ranks.count)
    ranks.from_main(lambda: run.check(settings, resume=resume), "while looking at the run's folder")
    return ranks, run


def load_base(config: TrainConfig, dtype: torch.dtype | None = None) -> Base:
    """Read the model of `--model`, or build the small seeded one.

    Args:
        config: names the model: any that `load_videolm` reads, or a Hub id.
        dtype: the type of its weights; None for the type they are stored in.

    Raises:
        PathNotFoundError, CheckpointError: the folder cannot be used.
    """
    if config.model is None:
        model, tokenizer = build_small_videolm(SMALL_MODEL_SEED, config.grid_px)
        return Base(
            model=model,
            tokenizer=tokenizer,
            vision_sha256=vision_tower_sha256(model),
            fusion_frames=None,
            described=f"small seeded model (random weights, seed {SMALL_MODEL_SEED}): no --model was given",
        )
    folder = model_folder(config.model)
    if is_adapter(folder):
        raise CheckpointError(
            f"{config.model}: a LoRA adapter: training starts from a whole model",
            f"Merge it with its base first: `cope train merge {config.model} --out MODEL`.",
        )
    loaded = load_videolm(folder, dtype=dtype)
    return Base(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        vision_sha256=vision_tower_sha256(loaded.model),
        fusion_frames=loaded.fusion_frames,
        described=" ".join((f"{config.model}", *(f"({note})" for note in loaded.notes))),
    )


def fresh_delta_encoder(base: Base, config: PretrainConfig | FinetuneConfig) -> DeltaEncoder:
    """Build a Delta-encoder with new weights, of the vision tower's width; they depend on the seed alone."""
    width = base.model.base.config.vision_config.hidden_size
    name = config.delta_preset or ("small" if config.model is None else "paper")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        sizes = {"grid_px": config.grid_px, "out_width": width, "branches": config.delta_branches}
        return DeltaEncoder(DeltaEncoderConfig.preset(name, **sizes))


def open_index(cache: Cache, config: TrainConfig) -> tuple[VideoIndex, list[BadSample]]:
    """Return the entries that fit the configuration, and those left out because they cannot be used.

    Raises:
        EntryNotFoundError: none fits.
        CopeError: an entry cannot be used, and `skip_bad` is off.
    """
    index = VideoIndex(cache, fusion_frames=config.fusion_frames, grid_px=config.grid_px)
    if index.errors and not config.skip_bad:
        raise next(iter(index.errors.values()))
    if not index.entries:
        raise EntryNotFoundError(
            f"{cache.root}: no primitives with fusion window {config.fusion_frames} and grid {config.grid_px}; "
            f"{len(cache.primitives_names())} entries in all",
            f"Run `cope encode` and `cope extract --fusion {config.fusion_frames} --grid {config.grid_px}` first.",
        )
    return index, [BadSample(where=f"entry {name}", message=e.message) for name, e in index.errors.items()]


def ways_of(entries: Mapping[str, PrimitivesEntry], names: Iterable[str]) -> tuple[str, ...]:
    """Return how the primitives of some entries were made: "re-encoded", "direct", or both."""
    return tuple(sorted({entries[name].way for name in names}))


def add_frames(
    cache: Cache,
    entries: Mapping[str, PrimitivesEntry],
    wanted: Iterable[str],
    slots_of: Callable[[str], tuple[int, ...]],
    *,
    size_px: int,
    skip_bad: bool,
    on_frames: OnItem,
    ranks: Ranks,
) -> int:
    """Add the RGB slots that entries lack, on rank 0 while the others wait; returns how many.

    An entry that cannot be used is passed over under `skip_bad`: its samples fail one by one when they are read,
    where each is left out by name.

    Raises:
        DataError: an entry's frames cannot be had, and `skip_bad` is off.
    """

    def add() -> int:
        num_added = 0
        for name in wanted:

            def report(done: float, total: float, name: str = name) -> None:
                on_frames(name, done, total)

            try:
                num_added += ensure_frames(cache, entries[name], size_px, slots_of(name), on_progress=report)
            except CopeError as error:
                if not skip_bad:
                    raise DataError(f"entry {name}: {error.message}", error.hint) from error
        return num_added

    return ranks.from_main(add, "while rank 0 adds RGB slots (`cope extract --store-frames` does so before)")


def begin_run(
    run: RunFolder, described: Mapping[str, Any], bad: Sequence[BadSample], config: TrainConfig, on_begin: OnBegin
) -> None:
    """Write the run's record, once it is known that no more samples were left out than may be.

    Args:
        run: its folder.
        described: what config.json says.
        bad: samples left out already.
        config: says how many may be.
        on_begin: called with `described`.

    Raises:
        DataError: too many were left out.
    """
    if bad:
        check_num_bad(len(bad), config.skip_bad, bad[-1])
    run.begin(described, bad)
    on_begin(described)


def check_num_bad(num_bad: int, max_bad: int, last: BadSample) -> None:
    """Raise an error once more samples than allowed could not be read.

    Raises:
        DataError: says how many, and names the last.
    """
    if num_bad > max_bad:
        raise DataError(
            f"{num_bad} samples could not be read, --skip-bad {max_bad} allows no more; "
            f"the last: {last.where}: {last.message}",
            "Mend them (`cope cache verify` finds damaged entries), or allow more with --skip-bad.",
        )


class LeftOut:
    """The samples that a run leaves out, each counted once: a sample comes back every epoch, or evaluation.

    All ranks add the same ones; rank 0 writes.

    Args:
        run: where they are listed; holds those left out before.
        ranks: this process among the others.
        max_bad: how many there may be.
    """

    def __init__(self, run: RunFolder, ranks: Ranks, *, max_bad: int) -> None:
        self.run = run
        self.ranks = ranks
        self.max_bad = max_bad
        self._where = {line["where"] for line in run.skipped()}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._where)

    def add(self, step: int, bad: BadSample) -> None:
        """Leave a sample out in a step.

        Raises:
            DataError: more are left out than may be.
        """
        if bad.where in self._where:
            return
        self._where.add(bad.where)
        if self.ranks.is_main:
            self.run.log_skipped(step, bad)
        check_num_bad(self.count, self.max_bad, bad)


def record(config: TrainConfig, base: Base, entries: Iterable[str], ranks: Ranks, **values: Any) -> dict[str, Any]:
    """Return what config.json says about a run."""
    libraries = {name: version(name) for name in ("torch", "transformers", "accelerate", "peft")}
    return {
        "settings": config.settings(ranks.count),
        "other_settings": {name: getattr(config, name) for name in sorted(config.FREE)},
        "base_model": base.described,
        "batch": config.filling(ranks.count),
        "num_ranks": ranks.count,
        "vision_sha256": base.vision_sha256,
        "versions": {**library_versions(), **libraries},
        "cache_entries": sorted(entries),
        **values,
    }
