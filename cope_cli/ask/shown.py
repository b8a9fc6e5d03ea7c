"""Prepares a video for a model: runs missing stages, chooses slots for a question, and embeds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cope_cli.ask.config import AskConfig
from cope_cli.ask.models import check_delta_mode
from cope_cli.ask.settings import keyframes_shown, preparation
from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.config import DIRECT, EncodeConfig
from cope_cli.data.conversations import Turn
from cope_cli.data.prompt import Prompt, PromptBuilder, Timeline
from cope_cli.data.samples import read_visuals
from cope_cli.errors import CopeError, UsageError
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.checkpoint.folders import LoadedVideoLM
from cope_cli.model.checkpoint.hub import SHIPPED_MODEL
from cope_cli.model.token_plan import TokenPlan
from cope_cli.stages.prepare import Preparation, extract_encoded, prepare_video, prepare_videos
from cope_cli.types import OnItem
from cope_cli.video import Video


def preparation_of(loaded: LoadedVideoLM, config: AskConfig) -> Preparation:
    """Return what the stages must make of a video for a model.

    Raises:
        CheckpointError: Delta-tokens are requested from a model without a Delta-encoder.
    """
    check_delta_mode(loaded, config.delta)
    encoder = loaded.model.delta_encoder
    return preparation(
        config,
        fusion_frames=loaded.fusion_frames,
        grid_px=None if encoder is None else encoder.config.grid_px,
        size_px=loaded.model.vision_size_px,
        keyframes_per_gop=loaded.keyframes_per_gop,
        is_direct_tried=is_direct_tried(loaded, config),
    )


def is_direct_tried(loaded: LoadedVideoLM, config: AskConfig) -> bool:
    """Return whether to read videos directly where possible.

    Motion and residual of a stream at its own rate, size and quality differ from those of a re-encoded video. By
    default, a Delta-encoder that was trained on re-encoded videos only is therefore not shown direct ones.
    """
    if config.adaptive or config.way != "auto":
        return config.way == DIRECT
    return loaded.model.delta_encoder is None or DIRECT in loaded.primitives


def notes(loaded: LoadedVideoLM, config: AskConfig) -> list[str]:
    """Return notes on model and settings that matter for trusting the answers."""
    found = list(loaded.notes)
    if loaded.folder == SHIPPED_MODEL:
        found.append(
            "cope-tiny knows rendered scenes of coloured shapes and nothing else: for other footage use a larger "
            "model, such as --model lmms-lab/LLaVA-Video-7B-Qwen2"
        )
    if loaded.model.delta_encoder is None:
        if config.delta == "off":
            found.append("no Delta-encoder: only the RGB slots are shown, which takes no training (paper H.4)")
    elif config.delta == "on" and config.adaptive:
        found.append("adaptive windows: the Delta-encoder was trained with windows of one fixed length")
    elif config.delta == "on" and config.fusion_frames not in (0, loaded.fusion_frames):
        found.append(
            f"fusion window {config.fusion_frames}: the Delta-encoder was trained with {loaded.fusion_frames}, "
            "on shorter or longer motion"
        )
    if loaded.model.delta_encoder is not None and config.delta == "on":
        trained = " and ".join(loaded.primitives)
        is_direct = is_direct_tried(loaded, config)
        if (DIRECT if is_direct else "re-encoded") not in loaded.primitives:
            way = "read directly" if is_direct else "re-encoded"
            found.append(f"videos are {way}: the Delta-encoder was trained on {trained} primitives")
    return found


def run_stages(
    video: Path | Video,
    loaded: LoadedVideoLM,
    cache: Cache,
    config: AskConfig,
    *,
    workers: int = 1,
    on_stage: OnItem = lambda stage, done, total: None,
) -> tuple[PrimitivesEntry, bool]:
    """Return a video's primitives and RGB slots as a model needs them, and whether a stage had to run for it.

    Args:
        video: a video file, or an open video: its encoding is used, or its source if it was read directly. If the model
            needs another grid or fusion window, it is extracted again.
        loaded: the model.
        cache: cache of the primitives; an open video has its own.
        config: how to show the video.
        workers: processes that share the stages of a long video; more than one needs a `__main__` guard in scripts.
        on_stage: called while stages run.

    Raises:
        PathNotFoundError: there is no such file.
        VideoError, StorageError: a stage failed.
        CheckpointError: Delta-tokens are requested from a model without a Delta-encoder.
        UsageError: the open video is a part of a video.
    """
    needed = preparation_of(loaded, config)
    if isinstance(video, Path):
        return prepare_video(video, cache, needed, workers=workers, on_stage=on_stage)
    if not video.is_whole:
        raise UsageError(f"{video!r}: expected a whole video, found a part", "Ask about the video it was taken from.")
    entry = video.primitives.entry
    if entry.is_direct:
        needed = replace(needed, is_direct_tried=True, is_direct_needed=True)
        return prepare_video(entry.check_source(), video.store, needed, on_stage=on_stage)
    return extract_encoded(entry.encoded_name, video.store, needed, workers=workers, on_stage=on_stage)


def run_stages_of_many(
    videos: Sequence[Path],
    loaded: LoadedVideoLM,
    cache: Cache,
    config: AskConfig,
    *,
    encode: EncodeConfig | None = None,
    workers: int = 0,
    on_stage: OnItem = lambda stage, done, total: None,
) -> tuple[dict[Path, PrimitivesEntry], dict[Path, CopeError]]:
    """Prepare several videos for a model; return the entry of each, and the error of each video that failed.

    Args:
        videos: video files.
        loaded: the model.
        cache: cache of the primitives.
        config: how to show the videos.
        encode: how to re-encode the videos (default: as `cope encode` does).
        workers: processes at a time; 0 means one per core. Scripts need a `__main__` guard.
        on_stage: called with (stage, videos done, number of videos).

    Raises:
        CheckpointError: Delta-tokens are requested from a model without a Delta-encoder.
    """
    needed = preparation_of(loaded, config)
    if encode is not None:
        needed = replace(needed, encode=encode)
    return prepare_videos(videos, cache, needed, workers=workers, on_stage=on_stage)


class ShownVideo:
    """A video of the cache, ready for questions.

    Args:
        entry: the video's primitives, with the RGB slots that the keyframes need.
        loaded: the model.
        config: how to show it.
    """

    def __init__(self, entry: PrimitivesEntry, loaded: LoadedVideoLM, config: AskConfig) -> None:
        model = loaded.model
        self.entry = entry
        self.model = model
        self.primitives = Primitives(entry)
        self.frames = Frames(entry, model.vision_size_px)
        self.timeline = Timeline.of(self.primitives)
        self.delta_mode: Literal["on", "zero"] = "zero" if config.delta == "zero" else "on"
        self.max_new_tokens = config.max_new_tokens
        self.builder = PromptBuilder(
            tokenizer=loaded.tokenizer,
            costs=model.token_costs,
            context_tokens=model.context_tokens,
            keyframes_per_gop=keyframes_shown(config, loaded.keyframes_per_gop),
            max_gops=config.max_gops,
            include_delta=config.delta != "off",
        )
        self._visual: tuple[TokenPlan, Tensor] | None = None

    def prompt(self, question: str, history: Sequence[Turn] = ()) -> Prompt:
        """Return the prompt of a question after earlier turns, and leave room for the answer.

        Raises:
            UsageError: the question is empty, or not even one GOP fits the model's context.
        """
        if not question.strip():
            raise UsageError("the question is empty")
        return self.builder.ask(question, self.timeline, history=history, max_new_tokens=self.max_new_tokens)

    def plan(self) -> TokenPlan:
        """Return the slots to show without any text, within the model's context."""
        return self.builder.plan(self.timeline, max_visual_tokens=self.model.context_tokens)

    @torch.no_grad()
    def visual_embeddings(self, plan: TokenPlan) -> Tensor:
        """Return the embeddings (T, D_llm) of a plan's visual tokens; keeps those of the last plan.

        Raises:
            LookupError: an RGB slot was never stored.
            CacheCorruptError: a checksum fails.
        """
        if self._visual is None or self._visual[0] != plan:
            visuals = read_visuals(self.primitives, self.frames, plan, self.model.vision_size_px)
            kinds = torch.tensor([plan.token_kinds()], dtype=torch.uint8)
            batch = VideoLMBatch(
                input_ids=torch.zeros_like(kinds, dtype=torch.int64),
                token_kind=kinds,
                attention_mask=torch.ones_like(kinds, dtype=torch.int64),
                labels=None,
                rgb=torch.from_numpy(visuals.rgb),
                motion=torch.from_numpy(visuals.motion),
                residual=torch.from_numpy(visuals.residual),
                frame_size_px=torch.from_numpy(visuals.frame_size_px),
                delta_mode=self.delta_mode,
            )
            self._visual = plan, self.model.visual_embeddings(batch.to(self.model.device))
        return self._visual[1]
