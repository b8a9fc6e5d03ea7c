"""Settings of cope-tiny's vision stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cope_cli.errors import UsageError
from cope_cli.options import Panel, at_least, option, redefault
from cope_cli.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class VisionConfig(TrainConfig):
    """Settings of training cope-tiny's vision tower on pictures of the rendered world."""

    model: Path | str | None = redefault(
        TrainConfig, "model", None, help="Run of this stage to start from. Default: fresh weights."
    )
    data: tuple[Path, ...] = option(
        help="Folder of `cope scenes --num N`: a world to draw pictures of, and clips to evaluate on; can be repeated.",
        panel=Panel.DATA,
    )
    batch_size: int = redefault(TrainConfig, "batch_size", 64)
    grid_px: int = redefault(TrainConfig, "grid_px", 128)
    num_pictures: int = option(
        100_000,
        flag="--pictures",
        help="Pictures per epoch; each epoch draws new ones.",
        check=at_least(1),
        panel=Panel.DATA,
    )
    eval_frames: int = option(
        1000, help="Most slots of the clips to evaluate on at the end.", check=at_least(1), panel=Panel.OUTPUT
    )

    SMALL_STEPS: ClassVar[int] = 1000
    SMALL_LEARNING_RATE: ClassVar[float] = 1e-3
    FREE: ClassVar[frozenset[str]] = TrainConfig.FREE | {"eval_frames"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise UsageError("--data: expected at least one folder of `cope scenes`")
