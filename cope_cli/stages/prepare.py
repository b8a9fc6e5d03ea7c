"""Everything a video needs before a model can be asked about it, at once or ahead of time in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError, PathNotFoundError, VideoError
from cope_cli.stages.batch import Batch
from cope_cli.stages.direct import extract_direct, extract_direct_batch, known_sources
from cope_cli.stages.encode import encode_batch, encode_video
from cope_cli.stages.extract import ExtractRecord, extract_batch, extract_video
from cope_cli.stages.frames import FramesRequest
from cope_cli.types import OnItem


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
    on_stage: OnItem = lambda stage, done, total: None,
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
    if preparation.is_direct_tried:
        record = _read_directly(video, cache, preparation, on_stage)
        if record is not None:
            return _entry_of(record, cache)
    known = {entry.source_path: entry for entry in cache.usable_encoded()[0]}
    encoded = encode_video(
        video,
        cache,
        preparation.encode,
        known=known,
        workers=workers,
        on_progress=lambda done, total: on_stage("encode", done, total),
    )
    entry, is_new = extract_encoded(encoded.name, cache, preparation, workers=workers, on_stage=on_stage)
    return entry, is_new or encoded.is_new


def extract_encoded(
    encoded_name: str,
    cache: Cache,
    preparation: Preparation,
    *,
    workers: int = 1,
    on_stage: OnItem = lambda stage, done, total: None,
) -> tuple[PrimitivesEntry, bool]:
    """Return the primitives and RGB slots of an encoded video; arguments and errors as in `prepare_video`."""
    record = extract_video(
        encoded_name,
        cache,
        preparation.extract,
        frames=preparation.frames,
        workers=workers,
        on_progress=lambda done, total: on_stage("extract", done, total),
    )
    return _entry_of(record, cache)


def _entry_of(record: ExtractRecord, cache: Cache) -> tuple[PrimitivesEntry, bool]:
    """Return a record's entry, and whether anything was added to the cache for it."""
    entry = cache.primitives_entry(record.name)
    assert entry is not None
    return entry, record.is_new or record.num_frames_added > 0


def _read_directly(video: Path, cache: Cache, preparation: Preparation, on_stage: OnItem) -> ExtractRecord | None:
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


def prepare_videos(
    videos: Sequence[Path],
    cache: Cache,
    preparation: Preparation,
    *,
    workers: int = 0,
    on_stage: OnItem = lambda stage, done, total: None,
) -> tuple[dict[Path, PrimitivesEntry], dict[Path, CopeError]]:
    """Return the primitives of videos, with their RGB slots, and the error of each video that failed.

    Args:
        videos: video files.
        cache: where primitives are, or go.
        preparation: what is needed.
        workers: processes at a time; 0 means one per core. Scripts need a `__main__` guard.
        on_stage: called with (stage, videos done, videos in all).
    """
    errors: dict[Path, CopeError] = {
        video: PathNotFoundError(f"{video}: no such file") for video in videos if not video.is_file()
    }
    entries: dict[Path, PrimitivesEntry] = {}
    waiting = {str(video.resolve()): video for video in videos if video not in errors}

    def keep(extracted: Batch[ExtractRecord], of: dict[str, Path], *, errors_are_final: bool) -> None:
        """Run a batch; what it makes, and its errors if nothing else is tried, leave `of`."""
        total = len(of)
        for number, made in enumerate(extracted.run()):
            on_stage("extract", number + 1, total)
            entry = None if made.result is None else cache.primitives_entry(made.result.name)
            if entry is not None:
                entries[of.pop(made.item)] = entry
            elif made.error is not None and errors_are_final:
                errors[of.pop(made.item)] = made.error

    extract, frames = preparation.extract, preparation.frames
    if waiting and preparation.is_direct_tried:
        config = DirectConfig(extract=extract)
        directly = extract_direct_batch(map(Path, waiting), cache.root, config, frames=frames, workers=workers)
        keep(directly, waiting, errors_are_final=preparation.is_direct_needed)
    encoded: dict[str, Path] = {}
    if waiting:
        batch = encode_batch([Path(path) for path in waiting], cache.root, preparation.encode, workers=workers)
        for number, outcome in enumerate(batch.run()):
            on_stage("encode", number + 1, len(waiting))
            if outcome.error is not None:
                errors[waiting[outcome.item]] = outcome.error
            elif outcome.result is not None:
                encoded[outcome.result.name] = waiting[outcome.item]
    if encoded:
        batch_of = extract_batch(list(encoded), cache.root, extract, frames=frames, workers=workers)
        keep(batch_of, encoded, errors_are_final=True)
    return entries, errors


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
