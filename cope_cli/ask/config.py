"""Settings of asking: how a video is shown, how long the answer is, and which model answers. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cope_cli.config import parse_fusion
from cope_cli.options import DEVICE, Dtype, Panel, at_least, check_options, option

#: K of the paper's finetuned model, for models that do not state theirs.
PAPER_KEYFRAMES = 4


class DeltaMode(StrEnum):
    """What is shown of P slots: Delta-tokens, zeros in their place (H.3), or nothing (H.4)."""

    ON = "on"
    ZERO = "zero"
    OFF = "off"


class Way(StrEnum):
    """How videos become primitives: from their own streams, re-encoded, or as the model was trained."""

    AUTO = "auto"
    DIRECT = "direct"
    REENCODE = "reencode"


class Attention(StrEnum):
    """Attention implementations of transformers."""

    SDPA = "sdpa"
    EAGER = "eager"
    FLASH_ATTENTION_2 = "flash_attention_2"


def parse_way(is_direct: bool | None) -> Mapping[str, Any]:
    """Read the value of `--direct/--reencode`."""
    return {"way": Way.AUTO if is_direct is None else Way.DIRECT if is_direct else Way.REENCODE}


@dataclass(frozen=True, kw_only=True)
class AskConfig:
    """How a video is shown and how long the answer may be."""

    keyframes_per_gop: int = option(
        0,
        flag="--keyframes",
        help="K, slots per GOP shown as RGB; 0: the model's own, or 4.",
        check=at_least(0),
        panel=Panel.DATA,
    )
    fusion_frames: int = option(
        0,
        flag="--fusion",
        help="Fusion window in frames, or auto as in extract; 0: the model's own.",
        check=at_least(0),
        parse=parse_fusion,
        text_default="0",
        panel=Panel.DATA,
    )
    adaptive: bool = False
    max_gops: int = option(
        64, help="Show longer videos by this many evenly spaced GOPs.", check=at_least(1), panel=Panel.DATA
    )
    delta: DeltaMode = option(
        DeltaMode.ON,
        help="Show P slots as Delta-tokens, as zeros (zero, H.3), or not at all (off, H.4).",
        panel=Panel.DATA,
    )
    way: Way = option(
        Way.AUTO,
        flag="--direct/--reencode",
        help="Read vectors from the video's own stream, or re-encode it. Default: directly where the model allows it.",
        parse=parse_way,
        text_type=bool | None,
        panel=Panel.DATA,
    )
    max_new_tokens: int = option(256, help="Longest answer in tokens.", check=at_least(1), panel=Panel.ANSWER)
    temperature: float = option(
        0.0, help="Sampling temperature; 0: always the most likely token.", check=at_least(0), panel=Panel.ANSWER
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model answers, and where it runs."""

    model: Path | str | None = option(
        None,
        help="Model folder, run folder, Hub id, or cope-tiny. Default: the newest finetune run, else cope-tiny.",
        panel=Panel.MODEL,
    )
    delta_encoder: Path | str | None = option(
        None,
        help="Pretrain run or folder with the Delta-encoder to use. Default: the model's own.",
        panel=Panel.MODEL,
    )
    device: str = option(
        "auto", help="auto, cpu, cuda or cuda:N. auto: a GPU if there is one.", check=DEVICE, panel=Panel.MODEL
    )
    dtype: Dtype = option(Dtype.AUTO, help="Format of the weights. auto: as stored.", panel=Panel.MODEL)
    device_map: str | None = option(
        None,
        help="Spread the model over several GPUs: auto, balanced or sequential. Default: one device.",
        panel=Panel.MODEL,
    )
    attention: Attention = option(Attention.SDPA, help="Attention implementation.", panel=Panel.MODEL)

    def __post_init__(self) -> None:
        check_options(self)
