"""From the paths a user names to the video files behind them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cope_cli.errors import PathNotFoundError

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
