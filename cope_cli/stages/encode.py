"""Stage 1: a source video becomes MPEG-4 Part 2 in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cope_cli.cache.manifest import Manifest, fingerprint, record_files
from cope_cli.cache.store import Cache, EncodedEntry, entry_name
from cope_cli.codec.gop import GopSpan
from cope_cli.codec.mpeg4.split import SourcePart, plan_parts
from cope_cli.codec.mpeg4.stream import read_gop_spans
from cope_cli.codec.mpeg4.transcode import PartInfo, TranscodeInfo, join_parts, transcode, transcode_part
from cope_cli.codec.versions import library_versions
from cope_cli.config import ENCODED_SCHEMA, EncodeConfig
from cope_cli.errors import CopeError, StorageError, VideoError
from cope_cli.files import sync_file
from cope_cli.stages.batch import Batch, default_workers, run_parts, wide_items
from cope_cli.stages.sources import find_videos, source_record
from cope_cli.types import OnProgress

#: The least frames of an encoded stream that are worth a process of their own.
MIN_PART_FRAMES = 600


@dataclass(frozen=True, kw_only=True)
class EncodeRecord:
    """What became of one video.

    Attributes:
        name: the entry's name in the cache.
        is_new: False if a finished entry was found.
        num_frames: frames of the encoded stream.
        seconds: its length.
        width_px: picture width.
        height_px: picture height.
        size_bytes: size of the encoded file.
        num_size_changes: size changes of the source that were scaled away.
    """

    name: str
    is_new: bool
    num_frames: int
    seconds: float
    width_px: int
    height_px: int
    size_bytes: int
    num_size_changes: int

    @classmethod
    def of(cls, entry: EncodedEntry, *, is_new: bool) -> EncodeRecord:
        """Describe an entry."""
        info = entry.manifest.info
        return cls(
            name=entry.name,
            is_new=is_new,
            num_frames=info["num_frames"],
            seconds=info["num_frames"] / entry.manifest.config["fps"],
            width_px=info["width_px"],
            height_px=info["height_px"],
            size_bytes=entry.manifest.files[f"{entry.name}.mp4"].size_bytes,
            num_size_changes=info["num_size_changes"],
        )


def encode_video(
    source: Path,
    cache: Cache,
    config: EncodeConfig,
    *,
    known: dict[Path, EncodedEntry] | None = None,
    workers: int = 1,
    force: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> EncodeRecord:
    """Encode one video into the cache, unless a finished entry of the same content and settings is there.

    Args:
        source: a video file.
        cache: where the entry goes.
        config: how to encode.
        known: entries by source path: a file whose size and time are those of its entry is not hashed again.
        workers: processes that share a long video's GOPs; the entry's bytes do not depend on it.
        force: encode in any case; the source is hashed afresh.
        on_progress: called with (seconds done, seconds in all or 0 if unknown).

    Raises:
        VideoError: the video cannot be used.
        StorageError: the cache cannot be written.
    """
    path = source.resolve()
    earlier = None if force else (known or {}).get(path)
    content = source_record(path, None if earlier is None else earlier.manifest.source)
    key = fingerprint("encode", ENCODED_SCHEMA, content["sha256"], config.to_dict())
    name = entry_name(path.stem, key)
    if not force and (entry := _finished(cache, name)) is not None:
        return EncodeRecord.of(entry, is_new=False)
    with cache.workspace() as folder:
        video = folder / f"{name}.mp4"
        info = _transcode(path, video, config, workers, on_progress)
        spans = read_gop_spans(video)
        _check_gops(path, spans, info, config)
        manifest = Manifest(
            kind="encoded",
            schema=ENCODED_SCHEMA,
            fingerprint=key,
            upstream="",
            source=content,
            config=config.to_dict(),
            info=_info(info, spans),
            versions=library_versions(),
            files=record_files(folder, [video]),
        )
        _commit(cache, video, manifest, name, force=force)
    return EncodeRecord.of(EncodedEntry(name=name, folder=cache.encoded_folder, manifest=manifest), is_new=True)


def _transcode(
    source: Path, target: Path, config: EncodeConfig, workers: int, on_progress: OnProgress
) -> TranscodeInfo:
    """Encode a video here, or in parts by several processes if it is long and can be cut."""
    parts = plan_parts(source, config, workers, min_frames=MIN_PART_FRAMES) if workers > 1 else []
    if parts:
        tasks = {str(target.with_name(f"part-{n}.mp4")): part for n, part in enumerate(parts)}
        seconds = parts[0].total_frames / config.fps
        work = partial(_encode_part, source=source, config=config, tasks=tasks)
        try:
            infos = run_parts(str(source), list(tasks), work, workers, lambda done: on_progress(done, seconds))
            return join_parts([(Path(path), info) for path, info in zip(tasks, infos, strict=True)], target, config)
        except VideoError:
            pass  # a source that cannot be sought in, or a damaged one: as a whole it is encoded, or fails by name
        finally:
            for path in tasks:
                Path(path).unlink(missing_ok=True)
    return transcode(source, target, config, on_progress=on_progress)


def _encode_part(
    path: str, report: OnProgress, *, source: Path, config: EncodeConfig, tasks: Mapping[str, SourcePart]
) -> PartInfo:
    return transcode_part(source, Path(path), config, tasks[path], on_progress=report)


def _finished(cache: Cache, name: str) -> EncodedEntry | None:
    """Return a usable entry; one that is damaged counts as missing and is made again."""
    try:
        entry = cache.encoded_entry(name)
        if entry is not None:
            entry.check()
    except CopeError:
        return None
    return entry


def _check_gops(path: Path, spans: list[GopSpan], info: TranscodeInfo, config: EncodeConfig) -> None:
    """Hold the encoder to its word: an I-frame every `gop_frames` frames and nowhere else."""
    expected = [
        min(config.gop_frames, info.num_frames - start) for start in range(0, info.num_frames, config.gop_frames)
    ]
    found = [span.num_frames for span in spans]
    if found != expected:
        raise VideoError(f"{path}: the encoder made GOPs of {found[:5]} frames, expected {expected[:5]}")


def _info(info: TranscodeInfo, spans: list[GopSpan]) -> dict[str, object]:
    return {
        "num_frames": info.num_frames,
        "num_gops": len(spans),
        "width_px": info.size.width,
        "height_px": info.size.height,
        "source_codec": info.source_codec,
        "source_width_px": info.source_size.width,
        "source_height_px": info.source_size.height,
        "source_start_seconds": info.source_start_seconds,
        "num_source_frames": info.num_source_frames,
        "num_size_changes": info.num_size_changes,
        "rotation_degrees": info.rotation_degrees,
    }


def _commit(cache: Cache, video: Path, manifest: Manifest, name: str, *, force: bool) -> None:
    """Put the video in place, its manifest last.

    An entry that another process finished meanwhile stays as it is. A manifest of other bytes is taken away before the
    video is replaced; one of the same bytes is not, so that the entry is there at every moment.
    """
    target = cache.encoded_folder / f"{name}.mp4"
    manifest_path, written = target.with_suffix(".json"), video.with_suffix(".json")
    try:
        cache.encoded_folder.mkdir(parents=True, exist_ok=True)
        sync_file(video)
        manifest.write(written)
        if manifest_path.exists():
            entry = _finished(cache, name)
            if entry is not None and not force:
                return
            if entry is None or entry.manifest.files != manifest.files:
                manifest_path.unlink(missing_ok=True)
        video.replace(target)
        written.replace(manifest_path)
    except OSError as error:
        raise StorageError.of(target, error) from error


def encode_batch(
    paths: Iterable[Path], cache_root: Path, config: EncodeConfig, *, workers: int = 0, force: bool = False
) -> Batch[EncodeRecord]:
    """Prepare the encoding of all videos named by these paths; folders are searched.

    Args:
        paths: files and folders.
        cache_root: the cache folder.
        config: how to encode.
        workers: processes at a time; 0 means one per core.
        force: encode also what is done.
    """
    cache = Cache(cache_root)
    cache.clean()
    videos, errors = find_videos(paths, exclude=cache_root)
    entries, _ = cache.usable_encoded()
    known = {entry.source_path: entry for entry in entries}
    workers = workers or default_workers()
    sizes = {str(video): float(video.stat().st_size) for video in videos}
    wide = wide_items(sizes, workers, least=0)
    work = partial(
        _encode_item,
        cache_root=cache_root,
        config=config,
        known=known,
        workers=dict.fromkeys(wide, workers),
        force=force,
    )
    return Batch(items=list(sizes), work=work, workers=workers, wide=wide, weights=sizes, errors=errors)


def _encode_item(
    item: str,
    report: OnProgress,
    *,
    cache_root: Path,
    config: EncodeConfig,
    known: dict[Path, EncodedEntry],
    workers: Mapping[str, int],
    force: bool,
) -> EncodeRecord:
    return encode_video(
        Path(item),
        Cache(cache_root),
        config,
        known=known,
        workers=workers.get(item, 1),
        force=force,
        on_progress=report,
    )
