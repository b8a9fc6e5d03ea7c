"""From the `video` path of a data item to the cache entry that holds its primitives."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePath

from cope_cli.cache.store import Cache, PrimitivesEntry, matches_source
from cope_cli.config import ExtractConfig
from cope_cli.errors import CopeError, EntryNotFoundError


class VideoIndex:
    """The primitives of a cache that have one fusion window and grid, found by their source's path.

    An entry that cannot be used is left out and kept in `errors`; a search that finds nothing names it.

    Args:
        cache: where to look.
        fusion_frames: the fusion window s, in frames.
        grid_px: side G of the motion and residual grid.

    Attributes:
        entries: the entries that fit, by name.
        errors: the error of each entry that cannot be used, by name.
    """

    def __init__(self, cache: Cache, *, fusion_frames: int, grid_px: int) -> None:
        self.cache = cache
        self.fusion_frames = fusion_frames
        self.grid_px = grid_px
        self.entries: dict[str, PrimitivesEntry] = {}
        self.errors: dict[str, CopeError] = {}
        self._by_file_name: dict[str, list[PrimitivesEntry]] = defaultdict(list)
        self._others: dict[str, list[PrimitivesEntry]] = defaultdict(list)
        for name in cache.primitives_names():
            try:
                entry = cache.primitives_entry(name)
            except CopeError as error:
                self.errors[name] = error
                continue
            if entry is None:  # removed since it was listed
                continue
            found = (entry.manifest.config["fusion_frames"], entry.manifest.config["grid_px"])
            if found == (fusion_frames, grid_px) and not entry.manifest.config.get("adaptive"):
                self.entries[name] = entry
                self._by_file_name[entry.source_path.name].append(entry)
            else:
                self._others[entry.source_path.name].append(entry)

    def find(self, video: str, *, video_root: Path | None = None) -> PrimitivesEntry:
        """Return the entry of a video.

        Args:
            video: its path as a data item has it.
            video_root: the folder that path is relative to; the source must have been exactly there. None compares
                the last parts of the source's path with it.

        Raises:
            EntryNotFoundError: there is none (the hint has the commands that make it), or there are several.
        """
        wanted = video if video_root is None else str((video_root / video).resolve())
        found = _matching(self._by_file_name[PurePath(wanted).name], wanted)
        if len({entry.way for entry in found}) > 1:  # of both, the one that most models are trained on
            found = [entry for entry in found if not entry.is_direct]
        if len(found) > 1:
            names = ", ".join(entry.name for entry in found)
            raise EntryNotFoundError(
                f"{self.cache.root}: {len(found)} entries match {wanted}, one expected: {names}",
                "Give a longer path or --video-root, or remove what is old with `cope cache prune`.",
            )
        if not found:
            self._raise_missing(wanted)
        return found[0]

    def _raise_missing(self, wanted: str) -> None:
        """Say that there is no entry, and what comes nearest to one."""
        message = (
            f"{self.cache.root}: no primitives of {wanted} with fusion window {self.fusion_frames} "
            f"and grid {self.grid_px}"
        )
        others = _matching(self._others[PurePath(wanted).name], wanted)
        if others:
            settings = (ExtractConfig.from_dict(entry.manifest.config) for entry in others)
            message += "; there are some with " + ", ".join(
                f"window {config.window} and grid {config.grid_px}" for config in settings
            )
        if self.errors:
            first = next(iter(self.errors.values()))
            message += f"; {len(self.errors)} entries cannot be used, the first: {first.message}"
        raise EntryNotFoundError(
            message,
            f"Run `cope encode {wanted}`, then `cope extract --fusion {self.fusion_frames} --grid {self.grid_px}`.",
        )


def _matching(entries: list[PrimitivesEntry], wanted: str) -> list[PrimitivesEntry]:
    return [entry for entry in entries if matches_source(entry.source_path, wanted)]
