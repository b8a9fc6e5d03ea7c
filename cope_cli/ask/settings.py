"""How a video is asked about and by which model: all that can be known before PyTorch is imported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cope_cli.config import DIRECT, ExtractConfig
from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.checkpoint.hub import model_folder
from cope_cli.runs import newest_finished_run
from cope_cli.stages.frames import FramesRequest
from cope_cli.stages.prepare import Preparation

DeltaMode = Literal["on", "zero", "off"]
DELTA_MODES: tuple[DeltaMode, ...] = ("on", "zero", "off")
Way = Literal["auto", "direct", "reencode"]
#: K of the paper's finetuned model, for models that do not say theirs.
PAPER_KEYFRAMES = 4
#: The small model in the package, docs/cope-tiny.md.
SHIPPED_MODEL = Path(__file__).parents[1] / "pretrained" / "cope-tiny"
WAYS: tuple[Way, ...] = ("auto", "direct", "reencode")


@dataclass(frozen=True, kw_only=True)
class AskConfig:
    """How a video is shown and how long the answer may be.

    Attributes:
        keyframes_per_gop: K, slots per GOP shown as RGB; 0 takes the one the model was finetuned with, or 4.
        fusion_frames: fusion window s in frames; 0 takes the one the model was trained with.
        adaptive: windows that end when as much has happened as in s average frames.
        max_gops: longer videos are shown by this many evenly spaced GOPs (paper 4.1).
        delta: "on"; "zero" replaces the Delta-tokens by zeros (H.3); "off" leaves the P slots out (H.4).
        max_new_tokens: upper bound of the answer.
        temperature: 0 takes the likeliest token each time.
        way: how videos become primitives: "direct" from their own streams, "reencode", or "auto": directly if the model
            was trained so or has no Delta-encoder, and re-encoded where a video cannot be read directly.
    """

    keyframes_per_gop: int = 0
    fusion_frames: int = 0
    adaptive: bool = False
    max_gops: int = 64
    delta: DeltaMode = "on"
    max_new_tokens: int = 256
    temperature: float = 0.0
    way: Way = "auto"

    def __post_init__(self) -> None:
        if self.keyframes_per_gop < 0:
            raise UsageError(f"--keyframes {self.keyframes_per_gop}: expected at least 1 per GOP, or 0 for the model's")
        if self.max_gops < 1:
            raise UsageError(f"--max-gops {self.max_gops}: expected at least 1")
        if self.delta not in DELTA_MODES:
            raise UsageError(f"--delta {self.delta}: expected one of {', '.join(DELTA_MODES)}")
        if self.way not in WAYS:
            raise UsageError(f"way {self.way!r}: expected one of {', '.join(WAYS)}")
        if self.max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens {self.max_new_tokens}: expected at least 1")
        if self.temperature < 0:
            raise UsageError(f"--temperature {self.temperature}: expected 0 or more")


def keyframes_shown(config: AskConfig, own: int | None) -> int:
    """Return K: the one asked for, the model's `own`, or the paper's."""
    return config.keyframes_per_gop or own or PAPER_KEYFRAMES


def preparation(
    config: AskConfig,
    *,
    fusion_frames: int | None,
    grid_px: int | None,
    size_px: int,
    keyframes_per_gop: int | None,
    is_direct_tried: bool,
) -> Preparation:
    """Return what the stages must do.

    Args:
        config: how to show the video.
        fusion_frames: the window that the model was trained with, if with any.
        grid_px: the grid of its Delta-encoder, if it has one.
        size_px: side of its vision encoder's input.
        keyframes_per_gop: K of its finetuning, if it says so.
        is_direct_tried: read the video directly if that can be.
    """
    usual = ExtractConfig()
    return Preparation(
        extract=ExtractConfig(
            fusion_frames=config.fusion_frames or fusion_frames or usual.fusion_frames,
            grid_px=grid_px or usual.grid_px,
            adaptive=config.adaptive,
        ),
        frames=FramesRequest(size_px=size_px, keyframes_per_gop=keyframes_shown(config, keyframes_per_gop)),
        is_direct_tried=is_direct_tried,
        is_direct_needed=config.way == DIRECT,
    )


def preparation_ahead(folder: Path, config: AskConfig) -> Preparation | None:
    """Return what a model will need of a video, read from its JSON files alone; None if they do not say.

    A wrong guess costs time and nothing else: what is really needed is looked for once the model is read.
    """
    try:
        ours = json.loads((folder / "cope.json").read_text())
        vision = json.loads((folder / "config.json").read_text())["vision_config"]
        delta = ours["delta_encoder"]
        is_tried = DIRECT in ours.get("primitives", []) if config.way == "auto" else config.way == DIRECT
        return preparation(
            config,
            fusion_frames=ours["fusion_frames"],
            grid_px=None if delta is None else delta["grid_px"],
            size_px=vision["image_size"],
            keyframes_per_gop=ours.get("keyframes_per_gop"),
            is_direct_tried=is_tried,
        )
    except (OSError, ValueError, LookupError, TypeError, UsageError):
        return None


def find_model(named: str | Path | None, runs_root: Path) -> Path:
    """Return the model folder to use.

    Args:
        named: a model folder, a run folder with one inside, or a Hub id such as `lmms-lab/LLaVA-Video-7B-Qwen2`, which
            is downloaded if it is not in Hugging Face's cache; None chooses the newest finished finetune run, or else
            the model that the package ships.
        runs_root: where training runs are.

    Raises:
        CheckpointError: there is none (the message names both ways to one), or a Hub id cannot be downloaded.
    """
    if named is not None:
        return model_folder(named)
    run = newest_finished_run(runs_root, "finetune")
    if run is None:
        if SHIPPED_MODEL.is_dir():
            return SHIPPED_MODEL
        raise CheckpointError(
            f"no model: none was named, and {runs_root} holds no finished finetune run",
            "Name a model folder with --model, or train one: `cope train pretrain`, "
            "then `cope train finetune --data FILE`.",
        )
    return run / "model"
