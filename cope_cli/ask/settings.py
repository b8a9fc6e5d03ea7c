"""What the stages prepare for a question, and which model answers: known before PyTorch is imported."""

from __future__ import annotations

import json
from pathlib import Path

from cope_cli.ask.config import PAPER_KEYFRAMES, AskConfig
from cope_cli.config import DIRECT, ExtractConfig
from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.checkpoint.hub import SHIPPED_MODEL, model_folder
from cope_cli.runs import newest_finished_run
from cope_cli.stages.frames import FramesRequest
from cope_cli.stages.prepare import Preparation


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
        named: a model folder, a run folder, `cope-tiny` for the bundled model, or a Hub id such as
            `lmms-lab/LLaVA-Video-7B-Qwen2`, which is downloaded if it is not in Hugging Face's cache; None chooses the
            newest finished finetune run, or else the bundled model.
        runs_root: where training runs are.

    Raises:
        CheckpointError: there is no such model, or a Hub id cannot be downloaded.
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
