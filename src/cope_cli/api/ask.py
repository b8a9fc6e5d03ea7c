"""Asking a question about a video: the missing stages, the prompt, the answer as it comes, and what it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.data.collate import collate
from cope_cli.data.prompt import Prompt, PromptBuilder, Timeline
from cope_cli.data.samples import Sample, read_visuals
from cope_cli.errors import PathNotFoundError, UsageError
from cope_cli.model.checkpoint import LoadedVideoLM
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest

DeltaMode = Literal["on", "zero", "off"]
DELTA_MODES: tuple[DeltaMode, ...] = ("on", "zero", "off")


@dataclass(frozen=True, kw_only=True)
class AskConfig:
    """How a video is shown and how long the answer may be.

    Attributes:
        keyframes_per_gop: K, slots per GOP shown as RGB.
        fusion_frames: fusion window s in frames; 0 takes the one the model was trained with.
        max_gops: longer videos are shown by this many evenly spaced GOPs (paper 4.1).
        delta: "on"; "zero" replaces the Delta-tokens by zeros (H.3); "off" leaves the P slots out (H.4).
        max_new_tokens: upper bound of the answer.
        temperature: 0 takes the likeliest token each time.
    """

    keyframes_per_gop: int = 4
    fusion_frames: int = 0
    max_gops: int = 64
    delta: DeltaMode = "on"
    max_new_tokens: int = 256
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.keyframes_per_gop < 1:
            raise UsageError(f"--keyframes {self.keyframes_per_gop}: expected at least 1 per GOP")
        if self.max_gops < 1:
            raise UsageError(f"--max-gops {self.max_gops}: expected at least 1")
        if self.delta not in DELTA_MODES:
            raise UsageError(f"--delta {self.delta}: expected one of {', '.join(DELTA_MODES)}")
        if self.max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens {self.max_new_tokens}: expected at least 1")
        if self.temperature < 0:
            raise UsageError(f"--temperature {self.temperature}: expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and what it took.

    Attributes:
        text: the answer.
        entry: the primitives entry it was read from.
        num_rgb_slots: slots shown as RGB.
        num_p_slots: slots shown as Delta-tokens.
        num_gops_used: GOPs shown.
        num_gops_total: GOPs of the video.
        num_visual_tokens: RGB tokens, Delta-tokens and their newlines.
        num_text_tokens: the rest of the prompt.
        num_new_tokens: tokens of the answer.
        stages_seconds: encoding and extracting, 0 if both were done.
        ttft_seconds: from primitives in the cache to the first token: reading, vision, Delta-encoder, prefill.
        total_seconds: from the call to the last token.
    """

    text: str
    entry: str
    num_rgb_slots: int
    num_p_slots: int
    num_gops_used: int
    num_gops_total: int
    num_visual_tokens: int
    num_text_tokens: int
    num_new_tokens: int
    stages_seconds: float
    ttft_seconds: float
    total_seconds: float


def ask_video(
    video: Path,
    question: str,
    loaded: LoadedVideoLM,
    cache: Cache,
    config: AskConfig,
    *,
    workers: int = 1,
    on_stage: Callable[[str, float, float], None] = lambda stage, done, total: None,
    on_text: Callable[[str], None] = lambda text: None,
) -> Answer:
    """Answer a question about a video.

    Args:
        video: a video file; stages that are not done for it are run first.
        question: plain text.
        loaded: the model and its tokenizer.
        cache: where primitives are, or go.
        config: how to show the video.
        workers: processes that share the stages of a long video; more than one needs a `__main__` guard in scripts.
        on_stage: called with (stage, seconds done, seconds in all) while stages run.
        on_text: called with each piece of the answer as it is ready.

    Raises:
        PathNotFoundError: there is no such file.
        VideoError, StorageError: a stage failed.
        UsageError: the question is empty, or not even one GOP fits the model's context.
    """
    start = time.perf_counter()
    if not question.strip():
        raise UsageError("the question is empty")
    if not video.is_file():
        raise PathNotFoundError(f"{video}: no such file")
    entry, is_new = primitives_for(video, loaded, cache, config, workers=workers, on_stage=on_stage)
    ready = time.perf_counter()
    prompt, sample = _sample(entry, question, loaded, config)
    text, num_new_tokens, first_token = _generate(sample, loaded, config, on_text)
    plan = prompt.plan
    return Answer(
        text=text,
        entry=entry.name,
        num_rgb_slots=plan.num_rgb_slots,
        num_p_slots=plan.num_delta_slots,
        num_gops_used=plan.num_gops_used,
        num_gops_total=plan.num_gops_total,
        num_visual_tokens=prompt.num_visual_tokens,
        num_text_tokens=prompt.num_text_tokens,
        num_new_tokens=num_new_tokens,
        stages_seconds=ready - start if is_new else 0.0,
        ttft_seconds=first_token - ready,
        total_seconds=time.perf_counter() - start,
    )


def primitives_for(
    video: Path,
    loaded: LoadedVideoLM,
    cache: Cache,
    config: AskConfig,
    *,
    workers: int = 1,
    on_stage: Callable[[str, float, float], None] = lambda stage, done, total: None,
) -> tuple[PrimitivesEntry, bool]:
    """Return a video's primitives and RGB slots as a model needs them, and whether a stage had to run for it."""
    model = loaded.model
    frames = FramesRequest(size_px=model.vision_size_px, keyframes_per_gop=config.keyframes_per_gop)
    extract = ExtractConfig(
        fusion_frames=config.fusion_frames or loaded.fusion_frames or ExtractConfig().fusion_frames,
        grid_px=model.delta_encoder.config.grid_px if model.delta_encoder is not None else 224,
    )
    known = {entry.source_path: entry for entry in cache.usable_encoded()[0]}
    encoded = encode_video(
        video,
        cache,
        EncodeConfig(),
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


def _sample(entry: PrimitivesEntry, question: str, loaded: LoadedVideoLM, config: AskConfig) -> tuple[Prompt, Sample]:
    model = loaded.model
    primitives = Primitives(entry)
    builder = PromptBuilder(
        tokenizer=loaded.tokenizer,
        costs=model.token_costs,
        context_tokens=model.context_tokens,
        keyframes_per_gop=config.keyframes_per_gop,
        max_gops=config.max_gops,
        include_delta=config.delta != "off",
    )
    prompt = builder.ask(question, Timeline.of(primitives), max_new_tokens=config.max_new_tokens)
    frames = Frames(entry, model.vision_size_px)
    visuals = read_visuals(primitives, frames, prompt.plan, model.vision_size_px)
    return prompt, Sample(prompt=prompt, visuals=visuals)


def _generate(
    sample: Sample, loaded: LoadedVideoLM, config: AskConfig, on_text: Callable[[str], None]
) -> tuple[str, int, float]:
    """Return the answer, its number of tokens, and when its first token was there."""
    device = next(loaded.model.parameters()).device
    batch = collate([sample], pad_id=loaded.tokenizer.pad_token_id, padding_side="left", with_labels=False)
    batch = replace(batch, delta_mode="zero" if config.delta == "zero" else "on").to(device)
    streamer = _streamer(loaded.tokenizer, on_text)
    tokens = loaded.model.generate(
        batch, max_new_tokens=config.max_new_tokens, temperature=config.temperature, streamer=streamer
    )[0]
    text = str(loaded.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
    return text, len(tokens), streamer.first_token_time


def _streamer(tokenizer: Any, on_text: Callable[[str], None]) -> Any:
    """Return a transformers streamer that passes text on and notes when the first token came."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        first_token_time = 0.0

        def put(self, value: Any) -> None:
            if not self.next_tokens_are_prompt and not self.first_token_time:
                self.first_token_time = time.perf_counter()
            super().put(value)

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                on_text(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
