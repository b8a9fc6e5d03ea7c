"""From the paths a user names to the video files behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cope_cli.errors import PathNotFoundError, VideoError
from cope_cli.files import sha256_file

#: What a folder is searched for; a file that is named itself may have any suffix.
VIDEO_SUFFIXES = frozenset(
    [
        *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    ]
)


def find_videos(
    paths: Iterable[Path], *, exclude: Path | None = None
) -> tuple[list[Path], dict[str, PathNotFoundError]]:
    """Return the video files named or found below folders, and the paths that gave none.

    Hidden files and folders are passed over, and so is the cache itself.

    Args:
        paths: files and folders.
        exclude: a folder to stay out of: the cache, which may lie inside what is searched.

    Returns:
        Absolute paths, sorted, each once; and an error for each path that does not exist or holds no video.
    """
    excluded = exclude.resolve() if exclude is not None else None
    found: set[Path] = set()
    errors: dict[str, PathNotFoundError] = {}
    for path in paths:
        if not path.exists():
            errors[str(path)] = PathNotFoundError(f"{path}: no such file or folder")
        elif path.is_file():
            found.add(path.resolve())
        else:
            inside = {file for file in _videos_below(path.resolve()) if excluded not in file.parents}
            found |= inside
            if not inside:
                errors[str(path)] = PathNotFoundError(
                    f"{path}: no video in this folder or below it",
                    f"Files searched for: {' '.join(sorted(VIDEO_SUFFIXES))}",
                )
    return sorted(found), errors


def _videos_below(folder: Path) -> Iterable[Path]:
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.suffix.lower() in VIDEO_SUFFIXES and not hidden and file.is_file():
            yield file


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return for each path as much of its end as no other of them ends with: its name, or folders before it too."""
    parts = {path: Path(path).parts for path in paths}
    names = {}
    for path, own in parts.items():
        num = 1
        while num < len(own) and sum(other[-num:] == own[-num:] for other in parts.values()) > 1:
            num += 1
        names[path] = str(Path(*own[-num:]))
    return names


def source_record(path: Path, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describe a source file for a manifest: path, size, time, hash.

    Args:
        path: the file, absolute.
        known: the record in an entry made from it; its hash is taken if size and time are unchanged.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        stat = path.stat()
        record: dict[str, Any] = {"path": str(path), "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        if known is not None and all(known.get(field) == value for field, value in record.items()):
            return record | {"sha256": known["sha256"]}
        return record | {"sha256": sha256_file(path)}
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror or error}") from error
