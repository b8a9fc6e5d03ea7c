"""Settings of the training stages. Each field is an option; `resolve` fills in what None stands for.

Imports neither torch nor transformers, so that a command can show its defaults at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from cope_cli.config import ExtractConfig
from cope_cli.data.keyframes import KeyframeMix
from cope_cli.errors import UsageError
from cope_cli.options import Check, Dtype, Panel, above, at_least, check_options, option, redefault

#: Fresh Delta-encoder instead of a pre-trained one.
FRESH = "fresh"
#: The paper's rate for a batch of 64 (SPEC section 3): it grows with the batch, whatever the number of ranks.
PRETRAIN_RATE_PER_64 = 6.25e-5


class Reporter(StrEnum):
    """Where steps are reported to, beside metrics.jsonl."""

    NONE = "none"
    TENSORBOARD = "tensorboard"
    WANDB = "wandb"


class Optimizer(StrEnum):
    """AdamW for everything, or Muon for hidden weight matrices and AdamW for everything else."""

    ADAMW = "adamw"
    MUON = "muon"


class Part(StrEnum):
    """Parts that can be frozen; the projector includes the newline token. The vision tower is frozen by default."""

    LLM = "llm"
    PROJECTOR = "projector"
    DELTA_ENCODER = "delta-encoder"


class Recipe(StrEnum):
    """Sets of defaults for pre-training."""

    PAPER = "paper"
    SMALL = "small"


class Branches(StrEnum):
    """Branches of a Delta-encoder."""

    BOTH = "both"
    MOTION = "motion"
    RESIDUAL = "residual"


class Schedule(StrEnum):
    """How the learning rate goes on after the warm-up: down to 0 along a cosine or a line, or not at all."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Preset(StrEnum):
    """Sizes of a fresh Delta-encoder; see `model.delta_encoder`."""

    PAPER = "paper"
    WIDE = "wide"
    SMALL = "small"
    TINY = "tiny"


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings that both stages share."""

    model: Path | str | None = option(
        None,
        help="Folder or Hub id of the model to start from. Default: a small model with seeded random weights.",
        panel=Panel.MODEL,
    )
    fusion_frames: int = option(
        30, flag="--fusion", help="Fusion window of the primitives to train on, in frames.", panel=Panel.DATA
    )
    grid_px: int = option(224, flag="--grid", help="Grid size of the primitives to train on.", panel=Panel.DATA)
    steps: int | None = option(
        None, help="Optimiser steps. Default: --epochs decides.", check=at_least(1), panel=Panel.OPTIMISATION
    )
    epochs: float | None = option(
        None,
        help="Passes over the data. Default: 1, or a number of steps that suits the small model.",
        check=above(0),
        panel=Panel.OPTIMISATION,
    )
    batch_size: int = option(8, help="Samples per device and micro-batch.", check=at_least(1), panel=Panel.OPTIMISATION)
    accumulate: int = option(1, help="Micro-batches per optimiser step.", check=at_least(1), panel=Panel.OPTIMISATION)
    global_batch: int | None = option(
        None,
        help="Samples per optimiser step over all ranks; sets --accumulate. Default: --accumulate decides.",
        check=at_least(1),
        panel=Panel.OPTIMISATION,
    )
    learning_rate: float | None = option(
        None,
        flag="--lr",
        help="Peak learning rate. Default: the paper's, or one that suits the small model.",
        check=above(0),
        panel=Panel.OPTIMISATION,
    )
    warmup_steps: int | None = option(
        None,
        flag="--warmup",
        help="Steps in which the learning rate rises. Default: a tenth of the steps, at most 1000.",
        check=at_least(0),
        panel=Panel.OPTIMISATION,
    )
    schedule: Schedule = option(
        Schedule.COSINE, help="Learning rate after the warm-up; constant never falls.", panel=Panel.OPTIMISATION
    )
    weight_decay: float = option(0.0, help="Weight decay of matrices.", check=at_least(0), panel=Panel.OPTIMISATION)
    optimizer: Optimizer = option(
        Optimizer.ADAMW,
        help="muon uses Muon for hidden weight matrices and AdamW for everything else.",
        panel=Panel.OPTIMISATION,
    )
    adam_beta2: float = option(
        0.999,
        flag="--beta2",
        help="Decay of AdamW's squared gradients; 0.95 to 0.98 suits short runs.",
        check=Check(lambda value: 0 < value < 1, "above 0 and below 1"),
        panel=Panel.OPTIMISATION,
    )
    max_grad_norm: float = option(
        1.0, help="Clip gradients to this norm; 0: do not clip.", check=at_least(0), panel=Panel.OPTIMISATION
    )
    seed: int = option(
        0, help="Seed for weight initialisation and sample order.", check=at_least(0), panel=Panel.OPTIMISATION
    )
    log_steps: int = option(1, help="Steps between lines of metrics.jsonl.", check=at_least(1), panel=Panel.OUTPUT)
    save_steps: int = option(500, help="Steps between checkpoints.", check=at_least(1), panel=Panel.OUTPUT)
    keep_checkpoints: int = option(2, help="Number of checkpoints to keep.", check=at_least(1), panel=Panel.OUTPUT)
    report_to: Reporter = option(Reporter.NONE, help="Report steps to this tool as well.", panel=Panel.OUTPUT)
    workers: int = option(
        0, help="Processes that read samples; 0: read in the training process.", check=at_least(0), panel=Panel.DATA
    )
    skip_bad: int = option(
        0,
        help="Skip up to this many unreadable samples and log each; 0: stop at the first.",
        check=at_least(0),
        panel=Panel.DATA,
    )
    dtype: Dtype = option(
        Dtype.AUTO,
        help="Format to compute in; weights stay float32. auto: float32. float16 needs a GPU.",
        panel=Panel.DISTRIBUTED,
    )
    device: str = option(
        "auto",
        help="auto, cpu or cuda. auto: the GPU if there is one.",
        check=Check(lambda value: value in ("auto", "cpu", "cuda"), "auto, cpu or cuda (CUDA_VISIBLE_DEVICES picks)"),
        panel=Panel.DISTRIBUTED,
    )
    fsdp: bool = option(False, help="Shard the model over the ranks' GPUs (FSDP2).", panel=Panel.DISTRIBUTED)
    activation_checkpointing: bool = option(
        False, help="Recompute activations in the backward pass to save memory.", panel=Panel.DISTRIBUTED
    )
    rank_timeout_minutes: float = option(
        60.0,
        flag="--rank-timeout",
        help="Minutes that a rank waits for the others, which may be adding frames.",
        check=above(0),
        panel=Panel.DISTRIBUTED,
    )

    #: Steps and peak rate of the small seeded model, measured on the sample videos.
    SMALL_STEPS: ClassVar[int]
    SMALL_LEARNING_RATE: ClassVar[float]
    #: Fields that change neither the outcome nor the data: a resumed run may have others. How a step's samples are cut
    #: up does not count, only how many there are; see `settings`.
    FREE: ClassVar[frozenset[str]] = frozenset(
        {"workers", "save_steps", "keep_checkpoints", "skip_bad", "rank_timeout_minutes"}
        | {"batch_size", "accumulate", "global_batch", "fsdp", "activation_checkpointing", "report_to"}
    )

    def __post_init__(self) -> None:
        check_options(self)
        ExtractConfig(fusion_frames=self.fusion_frames, grid_px=self.grid_px)
        if self.steps is not None and self.epochs is not None:
            raise UsageError(f"--steps {self.steps} and --epochs {self.epochs}: give one of them")
        if self.global_batch is not None and self.accumulate != 1:
            raise UsageError(
                f"--global-batch {self.global_batch} and --accumulate {self.accumulate}: give one of them",
                "Accumulation follows from the global batch, the batch size and the number of ranks.",
            )
        if self.optimizer == Optimizer.MUON and self.fsdp:
            raise UsageError("--optimizer muon --fsdp: Muon needs whole matrices, which FSDP splits")

    @property
    def is_bf16(self) -> bool:
        """Whether to compute in bfloat16."""
        return self.dtype == Dtype.BFLOAT16

    @property
    def is_cpu(self) -> bool:
        """Whether to use no accelerator, even if there is one."""
        return self.device == "cpu"

    def micro_batches(self, num_ranks: int = 1) -> int:
        """Return the micro-batches of a step on each rank.

        Raises:
            UsageError: the global batch is not a whole number of micro-batches; names the nearest that are.
        """
        if self.global_batch is None:
            return self.accumulate
        unit = self.batch_size * num_ranks
        if self.global_batch % unit:
            below = self.global_batch // unit * unit
            nearest = " or ".join(str(value) for value in (below, below + unit) if value)
            raise UsageError(
                f"--global-batch {self.global_batch}: not a multiple of {self.batch_size} samples x {num_ranks} ranks",
                f"The nearest are {nearest}; or choose another --batch-size.",
            )
        return self.global_batch // unit

    def step_samples(self, num_ranks: int = 1) -> int:
        """Return the samples of an optimiser step over all ranks; raises like `micro_batches`."""
        return self.batch_size * num_ranks * self.micro_batches(num_ranks)

    def filling(self, num_ranks: int = 1) -> str:
        """Return how the global batch is filled, in words; raises like `micro_batches`."""
        micro_batches = self.micro_batches(num_ranks)
        counts = ((self.batch_size, "sample"), (num_ranks, "rank"), (micro_batches, "micro-batch"))
        parts = (f"{n} {what}{'' if n == 1 else 'es' if what.endswith('ch') else 's'}" for n, what in counts)
        return f"global batch {self.step_samples(num_ranks)} = {' x '.join(parts)}"

    def num_steps(self, num_samples: int, num_ranks: int = 1) -> int:
        """Return the optimiser steps over a dataset; a last, smaller batch counts as a step."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None and self.model is None:
            return self.SMALL_STEPS
        return max(1, round((self.epochs or 1.0) * -(-num_samples // self.step_samples(num_ranks))))

    def num_warmup_steps(self, num_steps: int) -> int:
        """Return the steps in which the rate rises."""
        return min(1000, num_steps // 10) if self.warmup_steps is None else self.warmup_steps

    def settings(self, num_ranks: int = 1) -> dict[str, Any]:
        """Return what decides the outcome, as JSON values: fields, and the samples of a step over all ranks."""
        values = {name: value for name, value in self.to_dict().items() if name not in self.FREE}
        return {**values, "step_samples": self.step_samples(num_ranks)}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: _json_value(value) for name, value in asdict(self).items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json_value(one) for one in value]
    return str(value) if isinstance(value, Path | StrEnum) else value


@dataclass(frozen=True, kw_only=True)
class FreshDeltaEncoder:
    """Settings of a Delta-encoder with new weights, of both stages."""

    delta_preset: Preset | None = option(
        None,
        help="Size of a fresh Delta-encoder. Default: small for the small model, paper for others.",
        panel=Panel.MODEL,
    )
    delta_branches: Branches = option(
        Branches.BOTH, help="Branches of a fresh Delta-encoder; one alone is a control.", panel=Panel.MODEL
    )


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

    #: The loss falls to 0.80 of that of copying the previous slot, and keeps falling.
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


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(FreshDeltaEncoder, TrainConfig):
    """Settings of finetuning a VideoLM (paper 3.3, 4.1, C)."""

    data: Path = option(
        help="Items of LLaVA-Video-178K as JSON or JSON lines, or a YAML recipe of several files.", panel=Panel.DATA
    )
    video_root: Path | None = option(
        None,
        help="Folder that the items' video paths are relative to. Default: compare the ends of paths.",
        panel=Panel.DATA,
    )
    keyframes: int | str = option(
        "4",
        help="K, keyframes per GOP; or several with weights, as in 1:2,2:1,4:1, drawn for each sample.",
        panel=Panel.DATA,
    )
    max_gops: int = option(
        64, help="Show longer videos by this many evenly spaced GOPs.", check=at_least(1), panel=Panel.DATA
    )
    delta_encoder: Path | str | None = option(
        None,
        help="Pretrain run, Delta-encoder folder, or fresh. Default: the model's own, or the newest pretrain run's.",
        panel=Panel.MODEL,
    )
    freeze: tuple[Part, ...] = option((), help="Part to freeze; can be repeated.", panel=Panel.MODEL)
    lora: int | None = option(
        None,
        help="Train LoRA adapters of this rank instead of the language model. Default: train it in full.",
        check=at_least(1),
        panel=Panel.MODEL,
    )
    lora_alpha: int | None = option(
        None,
        help="LoRA's scale is alpha / rank. Default: twice the rank.",
        check=at_least(1),
        panel=Panel.MODEL,
    )
    train_vision: bool = option(False, help="Train the vision tower too.", panel=Panel.MODEL)
    vision_learning_rate: float = option(
        2e-6,
        flag="--vision-lr",
        help="Peak learning rate of the vision tower.",
        check=above(0),
        panel=Panel.OPTIMISATION,
    )
    group_by_length: bool = option(False, help="Put samples of similar length into a batch.", panel=Panel.OPTIMISATION)
    pack: int = option(
        1,
        help="Let up to this many items of a video share its visual tokens in one sequence.",
        check=at_least(1),
        panel=Panel.OPTIMISATION,
    )
    delta: Switch = option(
        Switch.ON, help="off trains on RGB slots alone, without Delta-tokens: a control (H.4).", panel=Panel.MODEL
    )

    #: 60 passes over 20 items: eight questions were known by heart after 60 passes.
    SMALL_STEPS: ClassVar[int] = 150
    SMALL_LEARNING_RATE: ClassVar[float] = 3e-3
    #: LLaVA-Video's and the paper's.
    LEARNING_RATE: ClassVar[float] = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        KeyframeMix.parse(self.keyframes)
        if self.lora_alpha is not None and self.lora is None:
            raise UsageError(f"--lora-alpha {self.lora_alpha}: there is no --lora that it could scale")
        if self.lora is not None and Part.LLM in self.freeze:
            raise UsageError(f"--lora {self.lora} --freeze llm: LoRA trains the language model, the other freezes it")
        if set(self.freeze) == set(Part) and not self.train_vision:
            raise UsageError(f"--freeze {' --freeze '.join(self.freeze)}: nothing is left to train")

    def resolve(self) -> FinetuneConfig:
        """Return the settings in one way of writing them, so that a resumed run can compare."""
        freeze = tuple(part for part in Part if part in self.freeze)
        return replace(self, keyframes=str(self.keyframe_mix), freeze=freeze)

    @property
    def keyframe_mix(self) -> KeyframeMix:
        """What `keyframes` says."""
        return KeyframeMix.parse(self.keyframes)

    @property
    def keeps_frozen_bf16(self) -> bool:
        """Whether frozen weights stay in bfloat16: a LoRA run saves none of them, and FSDP shards one type only."""
        return self.lora is not None and self.is_bf16 and not self.fsdp

    def resolved_learning_rate(self) -> float:
        """Return the peak rate: the one given, the small model's, or 1e-5."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self.SMALL_LEARNING_RATE if self.model is None else self.LEARNING_RATE
