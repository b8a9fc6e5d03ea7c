"""Answers one question about a video; runs missing stages first."""

from __future__ import annotations

from pathlib import Path

from cope_cli.ask.config import AskConfig
from cope_cli.ask.conversation import Answer, Conversation
from cope_cli.cache.store import Cache
from cope_cli.errors import UsageError
from cope_cli.model.checkpoint.folders import LoadedVideoLM
from cope_cli.types import OnItem, OnText
from cope_cli.video import Video


def ask_video(
    video: Path | Video,
    question: str,
    loaded: LoadedVideoLM,
    cache: Cache,
    config: AskConfig,
    *,
    workers: int = 1,
    on_stage: OnItem = lambda stage, done, total: None,
    on_text: OnText = lambda text: None,
) -> Answer:
    """Answer a question about a video.

    Args:
        video: a video file, or an open video; missing stages are run first.
        question: plain text.
        loaded: the model and its tokenizer.
        cache: cache of the primitives.
        config: how to show the video.
        workers: processes that share the stages of a long video; more than one needs a `__main__` guard in scripts.
        on_stage: called with (stage, seconds done, seconds in total) while stages run.
        on_text: called with each new piece of the answer.

    Raises:
        PathNotFoundError: there is no such file.
        VideoError, StorageError: a stage failed.
        CheckpointError: Delta-tokens are requested from a model without a Delta-encoder.
        UsageError: the question is empty, or no GOP fits the model's context.
    """
    if not question.strip():
        raise UsageError("the question is empty")
    conversation = Conversation.about(video, loaded, cache, config, workers=workers, on_stage=on_stage)
    return conversation.ask(question, on_text=on_text)
