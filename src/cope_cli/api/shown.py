"""A video as a model is shown it: the stages it needs, the slots chosen for a question, and their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cope_cli.api.models import SHIPPED_MODEL, check_delta_mode
from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.data.conversations import Turn
from cope_cli.data.prompt import Prompt, PromptBuilder, Timeline
from cope_cli.data.samples import read_visuals
from cope_cli.errors import CopeError, PathNotFoundError, UsageError
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.checkpoint import LoadedVideoLM
from cope_cli.model.token_plan import TokenPlan
from cope_cli.stages.encode import encode_batch, encode_video
from cope_cli.stages.extract import extract_batch, extract_video
from cope_cli.stages.frames import FramesRequest

DeltaMode = Literal["on", "zero", "off"]
DELTA_MODES: tuple[DeltaMode, ...] = ("on", "zero", "off")
#: K of the paper's finetuned model, for models that do not say theirs.
PAPER_KEYFRAMES = 4
#: Called with (stage, seconds done, seconds in all) while a stage runs.
OnStage = Callable[[str, float, float], None]


@dataclass(frozen=True, kw_only=True)
class AskConfig:
    """How a video is shown and how long the answer may be.

    Attributes:
        keyframes_per_gop: K, slots per GOP shown as RGB; 0 takes the one the model was finetuned with, or 4.
        fusion_frames: fusion window s in frames; 0 takes the one the model was trained with.
        max_gops: longer videos are shown by this many evenly spaced GOPs (paper 4.1).
        delta: "on"; "zero" replaces the Delta-tokens by zeros (H.3); "off" leaves the P slots out (H.4).
        max_new_tokens: upper bound of the answer.
        temperature: 0 takes the likeliest token each time.
    """

    keyframes_per_gop: int = 0
    fusion_frames: int = 0
    max_gops: int = 64
    delta: DeltaMode = "on"
    max_new_tokens: int = 256
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.keyframes_per_gop < 0:
            raise UsageError(f"--keyframes {self.keyframes_per_gop}: expected at least 1 per GOP, or 0 for the model's")
        if self.max_gops < 1:
            raise UsageError(f"--max-gops {self.max_gops}: expected at least 1")
        if self.delta not in DELTA_MODES:
            raise UsageError(f"--delta {self.delta}: expected one of {', '.join(DELTA_MODES)}")
        if self.max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens {self.max_new_tokens}: expected at least 1")
        if self.temperature < 0:
            raise UsageError(f"--temperature {self.temperature}: expected 0 or more")


def keyframes_shown(loaded: LoadedVideoLM, config: AskConfig) -> int:
    """Return K: the one asked for, the one the model was finetuned with, or the paper's."""
    return config.keyframes_per_gop or loaded.keyframes_per_gop or PAPER_KEYFRAMES


def stage_settings(loaded: LoadedVideoLM, config: AskConfig) -> tuple[EncodeConfig, ExtractConfig, FramesRequest]:
    """Return what the stages must do so that a model can be asked about a video.

    Raises:
        CheckpointError: Delta-tokens are wanted of a model without a Delta-encoder.
    """
    check_delta_mode(loaded, config.delta)
    encoder = loaded.model.delta_encoder
    extract = ExtractConfig(
        fusion_frames=config.fusion_frames or loaded.fusion_frames or ExtractConfig().fusion_frames,
        grid_px=ExtractConfig().grid_px if encoder is None else encoder.config.grid_px,
    )
    frames = FramesRequest(size_px=loaded.model.vision_size_px, keyframes_per_gop=keyframes_shown(loaded, config))
    return EncodeConfig(), extract, frames


def notes(loaded: LoadedVideoLM, config: AskConfig) -> list[str]:
    """Return what whoever reads the answers should know about model and settings."""
    found = list(loaded.notes)
    if loaded.folder == SHIPPED_MODEL:
        found.append(
            "cope-tiny knows rendered scenes of coloured shapes, and nothing else: for other footage name a larger "
            "model, such as --model lmms-lab/LLaVA-Video-7B-Qwen2"
        )
    if loaded.model.delta_encoder is None:
        if config.delta == "off":
            found.append("no Delta-encoder: only the RGB slots are shown, which takes no training (paper H.4)")
    elif config.delta == "on" and config.fusion_frames not in (0, loaded.fusion_frames):
        found.append(
            f"fusion window {config.fusion_frames}: the Delta-encoder was trained with {loaded.fusion_frames}, "
            "on shorter or longer motion than it is shown now"
        )
    return found


def run_stages(
    video: Path,
    loaded: LoadedVideoLM,
    cache: Cache,
    config: AskConfig,
    *,
    workers: int = 1,
    on_stage: OnStage = lambda stage, done, total: None,
) -> tuple[PrimitivesEntry, bool]:
    """Return a video's primitives and RGB slots as a model needs them, and whether a stage had to run for it.

    Args:
        video: a video file.
        loaded: the model.
        cache: where primitives are, or go.
        config: how to show the video.
        workers: processes that share the stages of a long video; more than one needs a `__main__` guard in scripts.
        on_stage: called while stages run.

    Raises:
        PathNotFoundError: there is no such file.
        VideoError, StorageError: a stage failed.
        CheckpointError: Delta-tokens are wanted of a model without a Delta-encoder.
    """
    encode, extract, frames = stage_settings(loaded, config)
    if not video.is_file():
        raise PathNotFoundError(f"{video}: no such file")
    known = {entry.source_path: entry for entry in cache.usable_encoded()[0]}
    encoded = encode_video(
        video,
        cache,
        encode,
        known=known,
        workers=workers,
        on_progress=lambda done, total: on_stage("encode", done, total),
    )
    extracted = extract_video(
        encoded.name,
        cache,
        extract,
        frames=frames,
        workers=workers,
        on_progress=lambda done, total: on_stage("extract", done, total),
    )
    entry = cache.primitives_entry(extracted.name)
    assert entry is not None
    return entry, encoded.is_new or extracted.is_new or extracted.num_frames_added > 0


def run_stages_of_many(
    videos: Sequence[Path],
    loaded: LoadedVideoLM,
    cache: Cache,
    config: AskConfig,
    *,
    workers: int = 0,
    on_stage: OnStage = lambda stage, done, total: None,
) -> tuple[dict[Path, PrimitivesEntry], dict[Path, CopeError]]:
    """Return the primitives of videos as a model needs them, and the error of each video that failed.

    Args:
        videos: video files.
        loaded: the model.
        cache: where primitives are, or go.
        config: how to show the videos.
        workers: processes at a time; 0 means one per core. Scripts need a `__main__` guard.
        on_stage: called with (stage, videos done, videos in all).

    Raises:
        CheckpointError: Delta-tokens are wanted of a model without a Delta-encoder.
    """
    encode, extract, frames = stage_settings(loaded, config)
    errors: dict[Path, CopeError] = {
        video: PathNotFoundError(f"{video}: no such file") for video in videos if not video.is_file()
    }
    resolved = {str(video.resolve()): video for video in videos if video not in errors}
    encoded: dict[str, Path] = {}
    batch = encode_batch([Path(path) for path in resolved], cache.root, encode, workers=workers)
    for number, outcome in enumerate(batch.run()):
        on_stage("encode", number + 1, len(resolved))
        if outcome.error is not None:
            errors[resolved[outcome.item]] = outcome.error
        elif outcome.result is not None:
            encoded[outcome.result.name] = resolved[outcome.item]
    entries: dict[Path, PrimitivesEntry] = {}
    if encoded:
        for number, made in enumerate(
            extract_batch(list(encoded), cache.root, extract, frames=frames, workers=workers).run()
        ):
            on_stage("extract", number + 1, len(encoded))
            entry = None if made.result is None else cache.primitives_entry(made.result.name)
            if made.error is not None:
                errors[encoded[made.item]] = made.error
            elif entry is not None:
                entries[encoded[made.item]] = entry
    return entries, errors


class ShownVideo:
    """A video of the cache, ready to be asked about.

    Args:
        entry: its primitives, with the RGB slots that the keyframes need.
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
            keyframes_per_gop=keyframes_shown(loaded, config),
            max_gops=config.max_gops,
            include_delta=config.delta != "off",
        )
        self._visual: tuple[TokenPlan, Tensor] | None = None

    def prompt(self, question: str, history: Sequence[Turn] = ()) -> Prompt:
        """Return the prompt of a question after earlier turns, with room for the answer.

        Raises:
            UsageError: the question is empty, or not even one GOP fits the model's context.
        """
        if not question.strip():
            raise UsageError("the question is empty")
        return self.builder.ask(question, self.timeline, history=history, max_new_tokens=self.max_new_tokens)

    def plan(self) -> TokenPlan:
        """Return the slots to show where there is no text beside them, within the model's context."""
        return self.builder.plan(self.timeline, max_visual_tokens=self.model.context_tokens)

    @torch.no_grad()
    def visual_embeddings(self, plan: TokenPlan) -> Tensor:
        """Return the embeddings (T, D_llm) of a plan's visual tokens; those of the last plan are kept.

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
