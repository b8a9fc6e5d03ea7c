"""Stage 2: an encoded video becomes fused primitives in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby, pairwise
from pathlib import Path

from cope_cli.cache.manifest import fingerprint
from cope_cli.cache.parts import read_part, write_part
from cope_cli.cache.primitives import compress_slot
from cope_cli.cache.store import Cache, EncodedEntry, PrimitivesEntry, entry_name
from cope_cli.codec.fusion import FrameSize
from cope_cli.codec.gop import Slot
from cope_cli.codec.primitives import extract_slots
from cope_cli.config import PRIMITIVES_SCHEMA, ExtractConfig
from cope_cli.errors import CopeError, EntryNotFoundError
from cope_cli.files import tree_bytes
from cope_cli.stages.batch import Batch, default_workers, run_parts, wide_items
from cope_cli.stages.entries import EntryPlan, finished_entry, write_entry
from cope_cli.stages.frames import FramesRequest, ensure_frames, slots_of_entry
from cope_cli.stages.sources import find_videos
from cope_cli.types import OnProgress

#: A video of fewer frames is not shared out: starting processes would cost more than they save.
MIN_PARALLEL_FRAMES = 6000
#: More parts than workers, so that all end at about the same time.
PARTS_PER_WORKER = 4


@dataclass(frozen=True, kw_only=True)
class ExtractRecord:
    """What became of one video.

    Attributes:
        name: the entry's name in the cache.
        encoded: the encoded entry it was made from; "" if it was made from the source itself.
        is_new: False if a finished entry was found.
        num_slots: slots S.
        num_iframe_slots: of them I-frame slots.
        size_bytes: size on disk, RGB slots included.
        num_frames_added: RGB pictures stored in this call.
        way: "re-encoded" or "direct".
    """

    name: str
    encoded: str
    is_new: bool
    num_slots: int
    num_iframe_slots: int
    size_bytes: int
    num_frames_added: int
    way: str

    @classmethod
    def of(cls, entry: PrimitivesEntry, *, is_new: bool, num_frames_added: int) -> ExtractRecord:
        """Describe an entry."""
        info = entry.manifest.info
        return cls(
            name=entry.name,
            encoded="" if entry.is_direct else entry.encoded_name,
            is_new=is_new,
            num_slots=info["num_slots"],
            num_iframe_slots=info["num_iframe_slots"],
            size_bytes=tree_bytes(entry.folder),
            num_frames_added=num_frames_added,
            way=entry.way,
        )


def extract_video(
    encoded_name: str,
    cache: Cache,
    config: ExtractConfig,
    *,
    frames: FramesRequest | None = None,
    workers: int = 1,
    force: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> ExtractRecord:
    """Extract one encoded video's primitives into the cache, unless a finished entry is there.

    Args:
        encoded_name: name of the encoded entry.
        cache: where it lies and the primitives go.
        config: fusion window, grid, tail.
        frames: RGB slots to store as well; they are added to a finished entry that lacks them.
        workers: processes that share a long video's GOPs; the entry's bytes do not depend on it.
        force: extract in any case.
        on_progress: called with (seconds done, seconds in all).

    Raises:
        EntryNotFoundError, CacheCorruptError, CacheVersionError: the encoded entry is missing or cannot be used.
        VideoError: it cannot be decoded.
        StorageError: the cache cannot be written.
    """
    encoded = cache.encoded_entry(encoded_name)
    if encoded is None:
        raise EntryNotFoundError(f"{cache.root}: no encoded video {encoded_name}", "Run `cope encode` first.")
    encoded.check(hashes=True)
    key = fingerprint("extract", PRIMITIVES_SCHEMA, encoded.content_sha256, config.to_dict())
    name = entry_name(encoded.source_path.stem, key)
    entry = None if force else finished_entry(cache, name)
    num_added = 0
    is_new = entry is None
    if entry is None:
        entry, num_added = _make_entry(encoded, name, key, cache, config, frames, workers, force, on_progress)
    elif frames is not None:
        wanted = frames.slots(_slot_gops(encoded, config))
        num_added = ensure_frames(cache, entry, frames.size_px, wanted, on_progress=on_progress)
    return ExtractRecord.of(entry, is_new=is_new, num_frames_added=num_added)


def _slot_gops(encoded: EncodedEntry, config: ExtractConfig) -> list[int]:
    return [slot.gop for slot in slots_of_entry(encoded, config)]


def _make_entry(
    encoded: EncodedEntry,
    name: str,
    key: str,
    cache: Cache,
    config: ExtractConfig,
    frames: FramesRequest | None,
    workers: int,
    force: bool,
    on_progress: OnProgress,
) -> tuple[PrimitivesEntry, int]:
    """Write a new entry; returns it and how many RGB pictures it holds."""
    slots = slots_of_entry(encoded, config)
    info = encoded.manifest.info
    plan = EntryPlan(
        name=name,
        fingerprint=key,
        upstream=encoded.manifest.fingerprint,
        source={
            "entry": encoded.name,
            "sha256": encoded.content_sha256,
            "path": encoded.manifest.source["path"],
            "config": encoded.manifest.config,
        },
        settings=config.to_dict(),
        info={"num_frames": info["num_frames"]},
        config=config,
        slots=slots,
        size=FrameSize(width=info["width_px"], height=info["height_px"]),
        fps=encoded.manifest.config["fps"],
        rgb_slots=[] if frames is None else frames.slots([slot.gop for slot in slots]),
        rgb_size_px=0 if frames is None else frames.size_px,
    )
    job = _Job(
        video=encoded.video,
        slots=slots,
        config=config,
        rgb_frames=plan.rgb_frames,
        rgb_size_px=plan.rgb_size_px,
        fps=plan.fps,
        num_frames=info["num_frames"],
    )
    entry, is_ours = write_entry(
        cache, plan, lambda workspace: _compressed_slots(job, workspace, workers, on_progress), force=force
    )
    if is_ours or frames is None:
        return entry, len(plan.rgb_slots)
    # Another process was faster, and may have been asked for other RGB slots.
    return entry, ensure_frames(cache, entry, frames.size_px, plan.rgb_slots)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What to extract; a part of it is the same with fewer slots."""

    video: Path
    slots: Sequence[Slot]
    config: ExtractConfig
    rgb_frames: frozenset[int]
    rgb_size_px: int
    fps: int
    num_frames: int

    def run(self, on_frame: Callable[[int], None]) -> Iterator[dict[str, bytes]]:
        """Yield each slot's compressed chunks."""
        for primitives in extract_slots(
            self.video,
            self.slots,
            self.config.grid_px,
            with_codec_residual=self.config.has_codec_residual,
            rgb_frames=self.rgb_frames,
            rgb_size_px=self.rgb_size_px,
            on_frame=on_frame,
        ):
            yield compress_slot(primitives)


def _compressed_slots(
    job: _Job, workspace: Path, workers: int, on_progress: OnProgress
) -> Iterator[Mapping[str, bytes]]:
    """Yield the chunks of every slot in order, made here or, for a long video, by several processes."""
    seconds = job.num_frames / job.fps
    if workers < 2 or job.num_frames < MIN_PARALLEL_FRAMES:
        yield from job.run(lambda index: on_progress(index / job.fps, seconds))
        on_progress(seconds, seconds)
        return
    jobs = {str(workspace / f"part-{n}"): part for n, part in enumerate(_parts_of(job, PARTS_PER_WORKER * workers))}
    run_parts(
        str(job.video),
        list(jobs),
        partial(_write_part, jobs=jobs),
        workers,
        lambda frames: on_progress(frames / job.fps, seconds),
    )
    for path in jobs:
        yield from read_part(Path(path))
        Path(path).unlink()
    on_progress(seconds, seconds)


def _parts_of(job: _Job, num: int) -> list[_Job]:
    """Cut a job into at most `num` of nearly as many whole GOPs each."""
    gops = [list(slots) for _, slots in groupby(job.slots, key=lambda slot: slot.gop)]
    num = min(num, len(gops))
    cuts = [len(gops) * n // num for n in range(num + 1)]
    return [replace(job, slots=[*chain(*gops[a:b])]) for a, b in pairwise(cuts)]


def _write_part(path: str, report: OnProgress, *, jobs: Mapping[str, _Job]) -> None:
    job = jobs[path]
    start = job.slots[0].frame
    write_part(Path(path), job.run(lambda index: report(index - start, 0)))


def extract_batch(
    videos: Sequence[str],
    cache_root: Path,
    config: ExtractConfig,
    *,
    frames: FramesRequest | None = None,
    workers: int = 0,
    force: bool = False,
) -> Batch[ExtractRecord]:
    """Prepare the extraction of encoded videos.

    Args:
        videos: what names an encoded video (`Cache.find_encoded`), or a folder, which is searched as `cope encode`
            does; none means every encoded video of the cache.
        cache_root: the cache folder.
        config: fusion window, grid, tail.
        frames: RGB slots to store as well.
        workers: processes at a time; 0 means one per core.
        force: extract also what is done.

    Raises:
        EntryNotFoundError: the cache holds no encoded video at all.
    """
    cache = Cache(cache_root)
    cache.clean()
    entries, errors = cache.usable_encoded()
    if videos:
        entries, errors = _find_named(videos, cache, entries)
    elif not entries and not errors:
        raise EntryNotFoundError(f"{cache_root}: no encoded video in this cache", "Run `cope encode PATHS...` first.")
    workers = workers or default_workers()
    lengths = {entry.name: float(entry.manifest.info["num_frames"]) for entry in entries}
    wide = wide_items(lengths, workers, MIN_PARALLEL_FRAMES)
    work = partial(
        _extract_item,
        cache_root=cache_root,
        config=config,
        frames=frames,
        workers=dict.fromkeys(wide, workers),
        force=force,
    )
    return Batch(
        items=[entry.name for entry in entries],
        work=work,
        workers=workers,
        wide=wide,
        weights=lengths,
        errors=errors,
    )


def _find_named(
    videos: Sequence[str], cache: Cache, entries: Sequence[EncodedEntry]
) -> tuple[list[EncodedEntry], dict[str, CopeError]]:
    """Return the entries of named videos and of the videos in named folders, and an error for each that has none."""
    folders = [Path(video) for video in videos if Path(video).is_dir()]
    inside, not_found = find_videos(folders, exclude=cache.root)
    found: dict[str, EncodedEntry] = {}
    errors: dict[str, CopeError] = {**not_found}
    for video in [*(video for video in videos if not Path(video).is_dir()), *map(str, inside)]:
        try:
            found |= {entry.name: entry for entry in cache.find_encoded(video, entries)}
        except CopeError as error:
            errors[video] = error
    return list(found.values()), errors


def _extract_item(
    item: str,
    report: OnProgress,
    *,
    cache_root: Path,
    config: ExtractConfig,
    frames: FramesRequest | None,
    workers: Mapping[str, int],
    force: bool,
) -> ExtractRecord:
    return extract_video(
        item,
        Cache(cache_root),
        config,
        frames=frames,
        workers=workers.get(item, 1),
        force=force,
        on_progress=report,
    )
