"""Settings of finetuning. Imports neither torch nor transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from cope_cli.data.keyframes import KeyframeMix
from cope_cli.errors import UsageError
from cope_cli.options import Panel, above, at_least, option
from cope_cli.train.config import FreshDeltaEncoder, TrainConfig

#: Fresh Delta-encoder instead of a pre-trained one.
FRESH = "fresh"


class Part(StrEnum):
    """Parts that can be frozen; the projector includes the newline token. The vision tower is frozen by default."""

    LLM = "llm"
    PROJECTOR = "projector"
    DELTA_ENCODER = "delta-encoder"


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


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

    #: 60 passes over 20 items; eight questions are known by heart after 80.
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
