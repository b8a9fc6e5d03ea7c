"""Settings of the training stages. Each field is an option; `resolve` fills in what None stands for.

Imports neither torch nor transformers, so that a command can show its defaults at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from cope_cli.config import ExtractConfig
from cope_cli.errors import UsageError
from cope_cli.options import Check, Dtype, Panel, above, at_least, check_options, option


class Reporter(StrEnum):
    """Where steps are reported to, beside metrics.jsonl."""

    NONE = "none"
    TENSORBOARD = "tensorboard"
    WANDB = "wandb"


class Optimizer(StrEnum):
    """AdamW for everything, or Muon for hidden weight matrices and AdamW for everything else."""

    ADAMW = "adamw"
    MUON = "muon"


class Branches(StrEnum):
    """Branches of a Delta-encoder."""

    BOTH = "both"
    MOTION = "motion"
    RESIDUAL = "residual"


class Schedule(StrEnum):
    """The learning rate after the warm-up: falling to 0 along a cosine or a line, or constant."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Preset(StrEnum):
    """Sizes of a fresh Delta-encoder; see `model.delta_encoder`."""

    PAPER = "paper"
    WIDE = "wide"
    SMALL = "small"
    TINY = "tiny"


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
