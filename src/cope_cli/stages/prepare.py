"""Everything a video needs before a model can be asked about it, at once or ahead of time in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError, PathNotFoundError, VideoError
from cope_cli.stages.direct import extract_direct, known_sources
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import ExtractRecord, extract_video
from cope_cli.stages.frames import FramesRequest

#: Called with (stage, seconds done, seconds in all) while a stage runs.
OnStage = Callable[[str, float, float], None]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What a model and a question need of a video.

    Attributes:
        extract: fusion window and grid.
        frames: RGB slots.
        encode: how to re-encode it, unless it is read directly.
        is_direct_tried: read it directly if that can be.
        is_direct_needed: it is an error if it cannot.
    """

    extract: ExtractConfig
    frames: FramesRequest
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    is_direct_tried: bool = False
    is_direct_needed: bool = False


def prepare_video(
    video: Path,
    cache: Cache,
    preparation: Preparation,
    *,
    workers: int = 1,
    on_stage: OnStage = lambda stage, done, total: None,
) -> tuple[PrimitivesEntry, bool]:
    """Return a video's primitives and RGB slots, and whether a stage had to run for them.

    Args:
        video: a video file.
        cache: where primitives are, or go.
        preparation: what is needed.
        workers: processes that share the stages of a long video; more than one needs a `__main__` guard in scripts.
        on_stage: called while stages run.

    Raises:
        PathNotFoundError: there is no such file.
        VideoError, StorageError: a stage failed.
    """
    if not video.is_file():
        raise PathNotFoundError(f"{video}: no such file")
    record, is_encoded_new = None, False
    if preparation.is_direct_tried:
        record = _read_directly(video, cache, preparation, on_stage)
    if record is None:
        known = {entry.source_path: entry for entry in cache.usable_encoded()[0]}
        encoded = encode_video(
            video,
            cache,
            preparation.encode,
            known=known,
            workers=workers,
            on_progress=lambda done, total: on_stage("encode", done, total),
        )
        is_encoded_new = encoded.is_new
        record = extract_video(
            encoded.name,
            cache,
            preparation.extract,
            frames=preparation.frames,
            workers=workers,
            on_progress=lambda done, total: on_stage("extract", done, total),
        )
    entry = cache.primitives_entry(record.name)
    assert entry is not None
    return entry, is_encoded_new or record.is_new or record.num_frames_added > 0


def _read_directly(video: Path, cache: Cache, preparation: Preparation, on_stage: OnStage) -> ExtractRecord | None:
    """Extract a video directly; None if it cannot be and need not be."""
    try:
        return extract_direct(
            video,
            cache,
            DirectConfig(extract=preparation.extract),
            frames=preparation.frames,
            known=known_sources(cache),
            on_progress=lambda done, total: on_stage("extract", done, total),
        )
    except VideoError:
        if preparation.is_direct_needed:
            raise
        return None


def prepare_ahead(video: Path, cache_root: Path, preparation: Preparation) -> BaseProcess:
    """Begin `prepare_video` in a process of its own, for which the caller has other work to do: reading the model.

    Nothing has to come of it. What it finishes is in the cache, and what it does not, for whatever reason,
    `prepare_video` does, or says why it cannot.

    Args:
        video: a video file.
        cache_root: the cache folder.
        preparation: what will be needed, as far as is known.

    Returns:
        The process; it ends with this one. Join it before `prepare_video`.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_prepare_quietly, args=(video, cache_root, preparation), daemon=True
    )
    process.start()
    return process


def _prepare_quietly(video: Path, cache_root: Path, preparation: Preparation) -> None:
    try:
        prepare_video(video, Cache(cache_root), preparation)
    except (CopeError, KeyboardInterrupt):
        return
