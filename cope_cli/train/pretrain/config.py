"""Settings of pre-training. Imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, ClassVar

from cope_cli.config import ExtractConfig
from cope_cli.errors import UsageError
from cope_cli.options import Check, Panel, at_least, option, redefault
from cope_cli.train.config import FreshDeltaEncoder, TrainConfig

#: The paper's rate for a batch of 64 (SPEC section 3): it grows with the batch, for any number of ranks.
PRETRAIN_RATE_PER_64 = 6.25e-5


class Recipe(StrEnum):
    """Sets of defaults for pre-training."""

    PAPER = "paper"
    SMALL = "small"


def parse_windows(text: str | None) -> Mapping[str, Any]:
    """Read the value of `--fusion-mix`: fusion windows in frames, separated by commas.

    Raises:
        UsageError: one is not a whole number.
    """
    if text is None:
        return {}
    try:
        return {"fusion_mix": tuple(int(part) for part in text.split(","))}
    except ValueError as error:
        raise UsageError(f"--fusion-mix {text}: expected windows in frames, as in 10,15,30") from error


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(FreshDeltaEncoder, TrainConfig):
    """Settings of pre-training the Delta-encoder (paper 3.3, B)."""

    batch_size: int = redefault(TrainConfig, "batch_size", 16)
    recipe: Recipe | None = option(
        None,
        help="Defaults of learning rate, warm-up, steps and global batch. Default: small for the small model; for "
        "others the paper's rate over one epoch.",
        panel=Panel.OPTIMISATION,
    )
    fusion_mix: tuple[int, ...] | None = option(
        None,
        help="Train on several fusion windows in equal parts, as in 10,15,30. Default: --fusion alone.",
        parse=parse_windows,
        panel=Panel.DATA,
    )
    held_out: float = option(
        0.1,
        help="Share of the videos that is kept for evaluation; 0: train on all.",
        check=Check(lambda value: 0 <= value < 1, "0 or more and below 1"),
        panel=Panel.DATA,
    )
    eval_steps: int = option(
        500, help="Steps between evaluations on held-out videos.", check=at_least(1), panel=Panel.OUTPUT
    )
    eval_pairs: int = option(
        1000, help="Most held-out pairs of each window to evaluate on.", check=at_least(1), panel=Panel.OUTPUT
    )
    store_features: bool = option(
        False,
        help="Compute vision tokens once and keep them in the cache: 1.7 MB a slot for SigLIP so400m.",
        panel=Panel.DATA,
    )

    #: Enough for the loss to fall below that of copying the previous slot on the sample videos, and it keeps falling.
    SMALL_STEPS: ClassVar[int] = 60
    SMALL_LEARNING_RATE: ClassVar[float] = 2e-3
    #: The paper's run (3.3, C): 113 K iterations on batches of 1024.
    PAPER_STEPS: ClassVar[int] = 113_000
    PAPER_GLOBAL_BATCH: ClassVar[int] = 1024
    PAPER_WARMUP_STEPS: ClassVar[int] = 1000
    FREE: ClassVar[frozenset[str]] = TrainConfig.FREE | {"eval_steps", "eval_pairs"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fusion_mix is not None:
            if len(set(self.fusion_mix)) != len(self.fusion_mix) or len(self.fusion_mix) < 2:
                raise UsageError(f"--fusion-mix {','.join(map(str, self.fusion_mix))}: expected at least two windows")
            for window in self.fusion_mix:
                ExtractConfig(fusion_frames=window, grid_px=self.grid_px)

    def resolve(self) -> PretrainConfig:
        """Return the settings with the recipe's global batch, and the windows of a mix in order."""
        changes: dict[str, Any] = {}
        if self.recipe == Recipe.PAPER and self.global_batch is None and self.accumulate == 1:
            changes["global_batch"] = self.PAPER_GLOBAL_BATCH
        if self.fusion_mix is not None:
            changes |= {"fusion_mix": tuple(sorted(self.fusion_mix)), "fusion_frames": max(self.fusion_mix)}
        return replace(self, **changes)

    @property
    def windows(self) -> tuple[int, ...]:
        """The fusion windows to train on, in frames, ascending."""
        return tuple(sorted(self.fusion_mix or (self.fusion_frames,)))

    @property
    def is_small(self) -> bool:
        """Whether the small recipe holds."""
        return self.recipe == Recipe.SMALL or (self.recipe is None and self.model is None)

    def resolved_learning_rate(self, num_ranks: int = 1) -> float:
        """Return the peak rate: the one given, the small model's, or 6.25e-5 * global batch / 64."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.is_small:
            return self.SMALL_LEARNING_RATE
        return PRETRAIN_RATE_PER_64 * self.step_samples(num_ranks) / 64

    def num_steps(self, num_samples: int, num_ranks: int = 1) -> int:
        """Return the optimiser steps over a dataset: as given, the recipe's, or those of an epoch."""
        if self.steps is None and self.epochs is None:
            if self.recipe == Recipe.PAPER:
                return self.PAPER_STEPS
            if self.is_small:
                return self.SMALL_STEPS
        return super().num_steps(num_samples, num_ranks)

    def num_warmup_steps(self, num_steps: int) -> int:
        """Return the steps in which the rate rises: as given, the paper's in its recipe, else a tenth of the steps."""
        if self.warmup_steps is None and self.recipe == Recipe.PAPER:
            return self.PAPER_WARMUP_STEPS
        return super().num_warmup_steps(num_steps)
