"""Stage 2 without stage 1: a video file becomes fused primitives in the cache, with no re-encoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cope_cli.cache.manifest import fingerprint
from cope_cli.cache.primitives import Primitives, compress_slot
from cope_cli.cache.store import Cache, entry_name
from cope_cli.codec.direct.slots import extract_direct_slots, slots_of_stream
from cope_cli.codec.direct.stream import SourceStream, read_stream
from cope_cli.config import PRIMITIVES_SCHEMA, WINDOW_FPS, DirectConfig
from cope_cli.errors import CopeError
from cope_cli.stages.batch import Batch
from cope_cli.stages.entries import EntryPlan, finished_entry, write_entry
from cope_cli.stages.extract import ExtractRecord
from cope_cli.stages.frames import FramesRequest, ensure_frames
from cope_cli.stages.sources import find_videos, source_record
from cope_cli.types import OnProgress


def extract_direct(
    source: Path,
    cache: Cache,
    config: DirectConfig,
    *,
    frames: FramesRequest | None = None,
    known: Mapping[Path, Mapping[str, Any]] | None = None,
    force: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> ExtractRecord:
    """Extract a video's primitives into the cache straight from its own stream, unless a finished entry is there.

    Args:
        source: a video file.
        cache: where the primitives go.
        config: fusion window, grid, tail, stream.
        frames: RGB slots to store as well; they are added to a finished entry that lacks them.
        known: records of source files by path: one whose size and time are unchanged is not hashed again.
        force: extract in any case; the source is hashed afresh.
        on_progress: called with (seconds done, seconds in all).

    Raises:
        VideoError: the video cannot be read directly; the hint names `cope encode`.
        StorageError: the cache cannot be written.
    """
    path = source.resolve()
    content = source_record(path, None if force else (known or {}).get(path))
    key = fingerprint("extract", PRIMITIVES_SCHEMA, content["sha256"], config.to_dict())
    name = entry_name(path.stem, key)
    entry = None if force else finished_entry(cache, name)
    if entry is not None:
        num_added = 0
        if frames is not None:
            wanted = frames.slots(Primitives(entry).slots.gop.tolist())
            num_added = ensure_frames(cache, entry, frames.size_px, wanted, on_progress=on_progress)
        return ExtractRecord.of(entry, is_new=False, num_frames_added=num_added)
    stream = read_stream(path, config.stream)
    plan = _plan(stream, name, key, content, config, frames)
    entry, is_ours = write_entry(cache, plan, lambda workspace: _chunks(stream, plan, on_progress), force=force)
    num_added = len(plan.rgb_slots)
    if not is_ours and frames is not None:
        num_added = ensure_frames(cache, entry, frames.size_px, plan.rgb_slots)
    return ExtractRecord.of(entry, is_new=True, num_frames_added=num_added)


def _plan(
    stream: SourceStream,
    name: str,
    key: str,
    content: dict[str, Any],
    config: DirectConfig,
    frames: FramesRequest | None,
) -> EntryPlan:
    slots = slots_of_stream(stream, config)
    num_promoted = sum(slot.is_iframe and not stream.frames[slot.frame].is_keyframe for slot in slots)
    return EntryPlan(
        name=name,
        fingerprint=key,
        upstream="",
        source={"entry": entry_name(stream.path.stem, content["sha256"]), **content},
        settings=config.to_dict(),
        info={
            "num_frames": len(stream.frames),
            "seconds": stream.video_seconds,
            "codec": stream.codec,
            "references": stream.references,
            "num_keyframes": sum(frame.is_keyframe for frame in stream.frames),
            "num_gops_within_keyframes": num_promoted,
            "rotation_degrees": 90 * stream.orientation.turns,
        },
        config=config.extract,
        slots=slots,
        size=stream.size,
        fps=WINDOW_FPS,
        seconds=[stream.seconds[slot.frame] for slot in slots],
        rgb_slots=[] if frames is None else frames.slots([slot.gop for slot in slots]),
        rgb_size_px=0 if frames is None else frames.size_px,
    )


def _chunks(stream: SourceStream, plan: EntryPlan, on_progress: OnProgress) -> Iterator[dict[str, bytes]]:
    seconds = stream.seconds[-1]
    made = extract_direct_slots(
        stream,
        plan.slots,
        plan.config.grid_px,
        rgb_frames=plan.rgb_frames,
        rgb_size_px=plan.rgb_size_px,
        on_frame=lambda index: on_progress(stream.seconds[index], seconds),
    )
    for primitives in made:
        yield compress_slot(primitives)
    on_progress(seconds, seconds)


def extract_direct_batch(
    paths: Iterable[Path],
    cache_root: Path,
    config: DirectConfig,
    *,
    frames: FramesRequest | None = None,
    workers: int = 0,
    force: bool = False,
) -> Batch[ExtractRecord]:
    """Prepare the direct extraction of all videos named by these paths; folders are searched.

    Args:
        paths: files and folders.
        cache_root: the cache folder.
        config: fusion window, grid, tail, stream.
        frames: RGB slots to store as well.
        workers: processes at a time; 0 means one per core.
        force: extract also what is done.
    """
    cache = Cache(cache_root)
    cache.clean()
    videos, errors = find_videos(paths, exclude=cache_root)
    sizes = {str(video): float(video.stat().st_size) for video in videos}
    work = partial(
        _extract_item,
        cache_root=cache_root,
        config=config,
        frames=frames,
        known=known_sources(cache),
        force=force,
    )
    failed: dict[str, CopeError] = dict(errors)
    return Batch(items=list(sizes), work=work, workers=workers, weights=sizes, errors=failed)


def known_sources(cache: Cache) -> dict[Path, Mapping[str, Any]]:
    """Return what the manifests of a cache say of source files, by path."""
    encoded = {entry.source_path: entry.manifest.source for entry in cache.usable_encoded()[0]}
    direct = {entry.source_path: entry.manifest.source for entry in cache.usable_direct()}
    return {**encoded, **direct}


def _extract_item(
    item: str,
    report: OnProgress,
    *,
    cache_root: Path,
    config: DirectConfig,
    frames: FramesRequest | None,
    known: Mapping[Path, Mapping[str, Any]],
    force: bool,
) -> ExtractRecord:
    return extract_direct(
        Path(item), Cache(cache_root), config, frames=frames, known=known, force=force, on_progress=report
    )
