"""The settings of the training stages. What is None is decided by what is trained; `resolved` says by what rule.

Imports neither torch nor transformers, so that a command can show its defaults at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from cope_cli.config import ExtractConfig
from cope_cli.data.keyframes import KeyframeMix
from cope_cli.errors import UsageError

#: Fresh Delta-encoder instead of a pre-trained one.
FRESH = "fresh"
#: The paper's rate for a batch of 64 (SPEC section 3): grows with the batch, whatever the number of ranks.
PRETRAIN_RATE_PER_64 = 6.25e-5
#: Where steps can be reported to, beside metrics.jsonl.
REPORTERS = ("none", "tensorboard", "wandb")
#: Values of `--optimizer`.
OPTIMIZERS = ("adamw", "muon")
#: Parts that `--freeze` takes; the vision tower is frozen without it.
PARTS = ("llm", "projector", "delta-encoder")
#: Values of `--recipe`.
RECIPES = ("paper", "small")
#: Values of `--delta-branches`, those of `DeltaEncoderConfig`.
Branches = Literal["both", "motion", "residual"]
#: Values of `--schedule`, in transformers' words.
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
#: Fields whose flag has another name.
_FLAGS = {
    "learning_rate": "lr",
    "vision_learning_rate": "vision-lr",
    "warmup_steps": "warmup",
    "adam_beta2": "beta2",
    "rank_timeout_minutes": "rank-timeout",
    "num_pictures": "pictures",
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What both stages share.

    Attributes:
        model: folder or Hub id of a VideoLM or of a published base model; None builds the small seeded model.
        fusion_frames: the fusion window s of the cache entries to train on, in frames.
        grid_px: their grid.
        steps: optimiser steps; None: `epochs`.
        epochs: passes over the data, where `steps` is None; None: one, or the small model's number of steps.
        batch_size: samples per device and micro-batch.
        accumulate: micro-batches per optimiser step; more than 1 excludes `global_batch`.
        global_batch: samples per optimiser step over all ranks; accumulation follows from it.
        learning_rate: peak rate; None: see `resolved_learning_rate`.
        warmup_steps: steps of linear rise at the start; None: a tenth of the steps, at most 1000 (the paper's).
        schedule: of the rate after that: to 0 as a "cosine" (the paper's) or in a "linear" way, or "constant".
        weight_decay: AdamW's, on matrices.
        optimizer: "adamw", or "muon": Muon for the matrices between the model's ends and AdamW for all else.
        adam_beta2: AdamW's memory of squared gradients, per step; short runs do better with less than 0.999.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them as they are.
        seed: of fresh weights and of the order of samples.
        log_steps: steps between lines of metrics.jsonl.
        save_steps: steps between checkpoints; the last step has one in any case.
        keep_checkpoints: how many to keep, the newest.
        workers: processes that read samples; 0 reads in the training process.
        bf16: compute in bfloat16, weights stay as they are.
        cpu: use no accelerator.
        fsdp: shard weights, gradients and optimiser over the ranks (FSDP2) instead of keeping a copy on each.
        activation_checkpointing: compute activations again in the backward pass instead of keeping them.
        report_to: "none", "tensorboard" or "wandb", beside metrics.jsonl.
        skip_bad: leave out up to this many samples that cannot be read, by name; 0 stops at the first.
        rank_timeout_minutes: how long a rank waits for the others, which may be writing or adding frames.
    """

    model: Path | str | None = None
    fusion_frames: int = 30
    grid_px: int = 224
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 8
    accumulate: int = 1
    global_batch: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    schedule: str = "cosine"
    weight_decay: float = 0.0
    optimizer: str = "adamw"
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    seed: int = 0
    log_steps: int = 1
    save_steps: int = 500
    keep_checkpoints: int = 2
    workers: int = 0
    bf16: bool = False
    cpu: bool = False
    fsdp: bool = False
    activation_checkpointing: bool = False
    report_to: str = "none"
    skip_bad: int = 0
    rank_timeout_minutes: float = 60.0

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
        ExtractConfig(fusion_frames=self.fusion_frames, grid_px=self.grid_px)
        if self.steps is not None and self.epochs is not None:
            raise UsageError(f"--steps {self.steps} and --epochs {self.epochs}: give one of them")
        if self.global_batch is not None and self.accumulate != 1:
            raise UsageError(
                f"--global-batch {self.global_batch} and --accumulate {self.accumulate}: give one of them",
                "Accumulation follows from the global batch, the batch size and the number of ranks.",
            )
        counts = ("steps", "batch_size", "accumulate", "global_batch", "log_steps", "save_steps", "keep_checkpoints")
        for name in counts:
            self._check(name, lambda value: value >= 1, "at least 1")
        if self.report_to not in REPORTERS:
            raise UsageError(f"--report-to {self.report_to}: expected {', '.join(REPORTERS)}")
        for name in ("warmup_steps", "workers", "weight_decay", "max_grad_norm", "seed", "skip_bad"):
            self._check(name, lambda value: value >= 0, "0 or more")
        for name in ("learning_rate", "epochs", "rank_timeout_minutes"):
            self._check(name, lambda value: value > 0, "above 0")
        self._check("schedule", SCHEDULES.__contains__, ", ".join(SCHEDULES))
        self._check("optimizer", OPTIMIZERS.__contains__, " or ".join(OPTIMIZERS))
        if self.optimizer == "muon" and self.fsdp:
            raise UsageError("--optimizer muon --fsdp: Muon needs whole matrices, which FSDP cuts up")
        self._check("adam_beta2", lambda value: 0 < value < 1, "above 0 and below 1")

    def _check(self, name: str, is_good: Any, expected: str) -> None:
        value = getattr(self, name)
        if value is not None and not is_good(value):
            flag = _FLAGS.get(name, name)
            raise UsageError(f"--{flag.replace('_', '-')} {value}: expected {expected}")

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
        """Say how the global batch comes about; raises like `micro_batches`."""
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
        """Return the steps of linear rise."""
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
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True, kw_only=True)
class VisionConfig(TrainConfig):
    """Training cope-tiny's vision tower; `model` is another such run to start from, None for fresh weights.

    Attributes:
        data: folders of `cope scenes`: the worlds whose pictures are drawn, of the train split whatever the clips'
            own, and the clips to evaluate on.
        num_pictures: pictures of an epoch; the next one's are others, and those of another `seed` are too.
        eval_frames: slots of the clips that are evaluated on at the end, at most.
    """

    data: tuple[Path, ...]
    batch_size: int = 64
    grid_px: int = 128
    num_pictures: int = 100_000
    eval_frames: int = 1000

    SMALL_STEPS: ClassVar[int] = 1000
    SMALL_LEARNING_RATE: ClassVar[float] = 1e-3
    FREE: ClassVar[frozenset[str]] = TrainConfig.FREE | {"eval_frames"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise UsageError("--data: expected at least one folder of `cope scenes`")
        for name in ("num_pictures", "eval_frames"):
            self._check(name, lambda value: value >= 1, "at least 1")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Pre-training of the Delta-encoder (paper 3.3, B).

    Attributes:
        recipe: `paper` or `small`: defaults for the rate, warm-up, steps and global batch, each overridden by its own
            field, the last by `accumulate` too; None: `small` for the small model, for others the paper's rate over
            one pass.
        delta_preset: preset of the Delta-encoder; None: `small` for the small model, `paper` for others.
        delta_branches: "both"; "motion" or "residual" builds that branch alone, a control.
        fusion_mix: train on pairs of these fusion windows, evenly; `fusion_frames` is then the largest of them.
        held_out: share of the videos that are kept from training and evaluated on; 0 keeps none.
        eval_steps: steps between evaluations; there is one after the last step in any case.
        eval_pairs: held-out pairs of each window that are evaluated, at most.
        store_features: compute each slot's vision tokens once and keep them in the cache, rounded to bfloat16.
    """

    batch_size: int = 16
    recipe: str | None = None
    delta_preset: str | None = None
    delta_branches: Branches = "both"
    fusion_mix: tuple[int, ...] | None = None
    held_out: float = 0.1
    eval_steps: int = 500
    eval_pairs: int = 1000
    store_features: bool = False

    #: The loss falls to 0.80 of that of copying the slot before, and goes on falling.
    SMALL_STEPS: ClassVar[int] = 60
    SMALL_LEARNING_RATE: ClassVar[float] = 2e-3
    #: The paper's run (3.3, C): 113 K iterations on batches of 1024.
    PAPER_STEPS: ClassVar[int] = 113_000
    PAPER_GLOBAL_BATCH: ClassVar[int] = 1024
    PAPER_WARMUP_STEPS: ClassVar[int] = 1000
    FREE: ClassVar[frozenset[str]] = TrainConfig.FREE | {"eval_steps", "eval_pairs"}

    def __post_init__(self) -> None:
        if self.recipe not in (None, *RECIPES):
            raise UsageError(f"--recipe {self.recipe}: expected {' or '.join(RECIPES)}")
        if self.recipe == "paper" and self.global_batch is None and self.accumulate == 1:
            object.__setattr__(self, "global_batch", self.PAPER_GLOBAL_BATCH)
        if self.fusion_mix is not None:
            if len(set(self.fusion_mix)) != len(self.fusion_mix) or len(self.fusion_mix) < 2:
                raise UsageError(f"--fusion-mix {','.join(map(str, self.fusion_mix))}: expected at least two windows")
            for window in self.fusion_mix:
                ExtractConfig(fusion_frames=window, grid_px=self.grid_px)
            object.__setattr__(self, "fusion_mix", tuple(sorted(self.fusion_mix)))
            object.__setattr__(self, "fusion_frames", max(self.fusion_mix))
        super().__post_init__()
        self._check("delta_branches", get_args(Branches).__contains__, "both, motion or residual")
        self._check("held_out", lambda value: 0 <= value < 1, "0 or more and below 1")
        for name in ("eval_steps", "eval_pairs"):
            self._check(name, lambda value: value >= 1, "at least 1")

    @property
    def windows(self) -> tuple[int, ...]:
        """The fusion windows to train on, in frames, ascending."""
        return self.fusion_mix or (self.fusion_frames,)

    @property
    def is_small(self) -> bool:
        """Whether the small recipe holds."""
        return self.recipe == "small" or (self.recipe is None and self.model is None)

    def resolved_learning_rate(self, num_ranks: int = 1) -> float:
        """Return the peak rate: the one given, the small model's, or 6.25e-5 * global batch / 64."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.is_small:
            return self.SMALL_LEARNING_RATE
        return PRETRAIN_RATE_PER_64 * self.step_samples(num_ranks) / 64

    def num_steps(self, num_samples: int, num_ranks: int = 1) -> int:
        """Return the optimiser steps over a dataset: as given, the recipe's, or what an epoch takes."""
        if self.steps is None and self.epochs is None:
            if self.recipe == "paper":
                return self.PAPER_STEPS
            if self.is_small:
                return self.SMALL_STEPS
        return super().num_steps(num_samples, num_ranks)

    def num_warmup_steps(self, num_steps: int) -> int:
        """Return the steps of linear rise: as given, the paper's in its recipe, else a tenth of the steps."""
        if self.warmup_steps is None and self.recipe == "paper":
            return self.PAPER_WARMUP_STEPS
        return super().num_warmup_steps(num_steps)


def parse_windows(text: str | None) -> tuple[int, ...] | None:
    """Read the value of `--fusion-mix`: fusion windows in frames with commas between them.

    Raises:
        UsageError: one is not a whole number.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--fusion-mix {text}: expected windows in frames, as in 10,15,30") from error


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainConfig):
    """Finetuning of a VideoLM (paper 3.3, 4.1, C).

    Attributes:
        data: the data file, or a recipe of several.
        video_root: folder that its video paths are relative to; None compares the ends of paths.
        keyframes: keyframes per GOP, K, or several with weights, of which each sample draws one anew in each epoch.
        max_gops: longer videos are shown by this many evenly spaced GOPs.
        delta_encoder: a pretrain run or its name, the folder of a Delta-encoder, or `fresh`; None: that of the model
            if it has one, else that of the newest finished pretrain run for its vision tower, else a fresh one.
        delta_preset: preset of a fresh one; None: `small` for the small model, `paper` for others.
        delta_branches: of a fresh one.
        freeze: parts that do not learn: llm, projector (with the newline), delta-encoder.
        lora: rank of LoRA adapters that learn in place of the language model; None trains it in full.
        lora_alpha: their scale is alpha / rank; None: twice the rank.
        train_vision: train the vision tower too.
        group_by_length: make batches of samples of similar length.
        vision_learning_rate: at this peak rate.
        pack: up to this many items of one video share its visual tokens in one sequence, each as if alone; a sample of
            the batch is then such a pack.
        delta: "on"; "off" trains without Delta-tokens, on RGB slots alone: the control of section H.4.
    """

    data: Path
    video_root: Path | None = None
    batch_size: int = 8
    keyframes: int | str = "4"
    max_gops: int = 64
    delta_encoder: Path | str | None = None
    delta_preset: str | None = None
    delta_branches: Branches = "both"
    freeze: tuple[str, ...] = ()
    lora: int | None = None
    lora_alpha: int | None = None
    train_vision: bool = False
    vision_learning_rate: float = 2e-6
    group_by_length: bool = False
    pack: int = 1
    delta: str = "on"

    #: 60 passes over 20 items: eight questions were known by heart after 60 passes.
    SMALL_STEPS: ClassVar[int] = 150
    SMALL_LEARNING_RATE: ClassVar[float] = 3e-3
    #: LLaVA-Video's and the paper's.
    LEARNING_RATE: ClassVar[float] = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "keyframes", str(self.keyframe_mix))  # one way to write it: a resumed run compares
        for name in ("lora", "lora_alpha"):
            self._check(name, lambda value: value >= 1, "at least 1")
        if self.lora_alpha is not None and self.lora is None:
            raise UsageError(f"--lora-alpha {self.lora_alpha}: there is no --lora that it could scale")
        for name in ("max_gops", "pack"):
            self._check(name, lambda value: value >= 1, "at least 1")
        if self.delta not in ("on", "off"):
            raise UsageError(f"--delta {self.delta}: expected on or off")
        self._check("delta_branches", get_args(Branches).__contains__, "both, motion or residual")
        self._check_freeze()
        self._check("vision_learning_rate", lambda value: value > 0, "above 0")

    def _check_freeze(self) -> None:
        """Refuse parts that there are not, and a run in which nothing learns."""
        unknown = [part for part in self.freeze if part not in PARTS]
        if unknown:
            raise UsageError(f"--freeze {unknown[0]}: expected one of {', '.join(PARTS)}")
        if self.lora is not None and "llm" in self.freeze:
            raise UsageError(f"--lora {self.lora} --freeze llm: LoRA trains the language model, the other freezes it")
        if set(self.freeze) == set(PARTS) and not self.train_vision:
            raise UsageError(f"--freeze {' --freeze '.join(self.freeze)}: nothing is left to train")
        object.__setattr__(self, "freeze", tuple(part for part in PARTS if part in self.freeze))  # in one order

    @property
    def keyframe_mix(self) -> KeyframeMix:
        """What `keyframes` says."""
        return KeyframeMix.parse(self.keyframes)

    @property
    def keeps_frozen_bf16(self) -> bool:
        """Whether frozen weights stay in bfloat16: a LoRA run saves none of them, and FSDP shards one type only."""
        return self.lora is not None and self.bf16 and not self.fsdp

    def resolved_learning_rate(self) -> float:
        """Return the peak rate: the one given, the small model's, or 1e-5."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self.SMALL_LEARNING_RATE if self.model is None else self.LEARNING_RATE
