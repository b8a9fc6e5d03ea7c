"""Settings of `cope bench`, one dataclass per measurement. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cope_cli.ask.config import DeltaMode
from cope_cli.options import DEVICE, Dtype, Panel, at_least, check_options, option

_DTYPE_HELP = "Format of the weights. auto: as stored for --accuracy; for --ttft bfloat16 on a GPU, float32 on a CPU."


class GeometryName(StrEnum):
    """Sizes of models; see `model.sizes.geometry`."""

    TINY = "tiny"
    QWEN2_0_5B = "0.5b"
    QWEN2_7B = "7b"
    QWEN2_72B = "72b"


def _device() -> Any:
    return option(
        "auto", help="auto, cpu, cuda or cuda:N. auto: a GPU if there is one.", check=DEVICE, panel=Panel.MODEL
    )


def _is_full(is_short: bool) -> Mapping[str, Any]:
    return {"is_warm_up_full": not is_short}


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """`--tokens` has no settings: it prints the paper's arithmetic."""


@dataclass(frozen=True, kw_only=True)
class TtftConfig:
    """`--ttft`: time to first token of a model with random weights."""

    geometry: GeometryName = option(GeometryName.TINY, help="Size of the model.", panel=Panel.MODEL)
    dtype: Dtype = option(Dtype.AUTO, help=_DTYPE_HELP, panel=Panel.MODEL)
    device: str = _device()
    rounds: int = option(5, help="Runs of each variant; the table has medians.", check=at_least(1), panel=Panel.OUTPUT)
    max_new_tokens: int = option(
        64,
        flag="--max-new-tokens",
        help="Tokens of the answer.",
        check=at_least(1),
        panel=Panel.ANSWER,
    )
    is_warm_up_full: bool = option(
        True,
        flag="--short-warm-up",
        help="Warm up on one GOP instead of every variant.",
        parse=_is_full,
        text_type=bool,
        text_default=False,
        panel=Panel.OUTPUT,
    )
    grid_px: int = option(224, flag="--grid", help="Grid size of the primitives.", panel=Panel.DATA)
    shares_layers: bool = option(
        False,
        flag="--share-layers",
        help="Let the language model's layers share one layer's weights: the same work in less memory.",
        panel=Panel.MODEL,
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class AccuracyConfig:
    """`--accuracy MODEL`: share of right answers."""

    data: Path = option(help="Questions with answers, such as `cope scenes` writes.", panel=Panel.DATA)
    delta: DeltaMode = option(
        DeltaMode.ON, help="Show P slots as Delta-tokens, as zeros (H.3), or not at all (off, H.4).", panel=Panel.DATA
    )
    keyframes_per_gop: int = option(
        0,
        flag="--keyframes",
        help="K, slots per GOP shown as RGB; 0: the model's own, or 4.",
        check=at_least(0),
        panel=Panel.DATA,
    )
    limit: int | None = option(
        None, help="Ask only about the first videos, this many. Default: all.", check=at_least(1), panel=Panel.DATA
    )
    max_new_tokens: int = option(48, help="Tokens of the answer.", check=at_least(1), panel=Panel.ANSWER)
    device: str = _device()
    dtype: Dtype = option(Dtype.AUTO, help=_DTYPE_HELP, panel=Panel.MODEL)
    out: Path | None = option(None, help="Folder for JSON and PNG files. Default: none.", panel=Panel.OUTPUT)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """`--retrieval RUN`: next-frame retrieval (H.6)."""

    model: Path | str | None = option(
        None, help="Model with the vision tower. Default: the one the run was trained with.", panel=Panel.MODEL
    )
    fusion_frames: int | None = option(
        None,
        flag="--fusion",
        help="Fusion window, of a run that was trained with several. Default: the largest.",
        panel=Panel.DATA,
    )
    device: str = _device()

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """`--ablation SPEC`: trainings x seeds x evaluations as one table."""

    out: Path = option(help="Folder for results and training runs; a rerun resumes.", panel=Panel.OUTPUT)
    device: str = _device()

    def __post_init__(self) -> None:
        check_options(self)
