"""What of a cache can go."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cope_cli.cache.features import check_features
from cope_cli.cache.frames import check_parts
from cope_cli.cache.store import Cache, EncodedEntry, PrimitivesEntry
from cope_cli.cache.temporary import dead_workspaces
from cope_cli.errors import CopeError, EntryNotFoundError, StorageError
from cope_cli.files import tree_bytes

_SUPERSEDED = "superseded: its source has changed"


@dataclass(frozen=True, kw_only=True)
class Removable:
    """Paths that go together, why they can go, and how much they hold."""

    reason: str
    name: str
    paths: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(tree_bytes(path) for path in self.paths)

    def remove(self) -> None:
        """Delete them; a manifest goes first, so that a half-deleted entry is never taken for whole."""
        try:
            for path in sorted(self.paths, key=lambda path: path.suffix != ".json"):
                if path.is_dir():
                    (path / "manifest.json").unlink(missing_ok=True)
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError.of(Path(error.filename or self.name), error, "cannot be removed") from error


def find_removable(cache: Cache) -> list[Removable]:
    """Return what is of no use: leftovers of killed processes, entries that cannot be used, superseded videos.

    Sizes and metadata are looked at, not every byte: that is what `verify` is for.

    A video is superseded when a later entry was made from the same path with the same settings, after the file had
    changed; its primitives go with it.
    """
    found = [
        Removable(reason="left by a killed process", name=path.name, paths=(path,))
        for path in dead_workspaces(cache.tmp)
    ]
    encoded, errors = cache.usable_encoded()
    found += [
        Removable(reason=error.message, name=name, paths=_encoded_paths(cache, name)) for name, error in errors.items()
    ]
    superseded = _superseded(encoded)
    found += [
        Removable(reason=_SUPERSEDED, name=name, paths=_encoded_paths(cache, name)) for name in sorted(superseded)
    ]
    manifests = {path.stem for path in cache.encoded_folder.glob("*.json")}
    found += [
        Removable(reason="a video without a manifest", name=path.stem, paths=(path,))
        for path in sorted(cache.encoded_folder.glob("*.mp4"))
        if path.stem not in manifests
    ]
    direct = cache.usable_direct()
    found += [
        Removable(reason=_SUPERSEDED, name=name, paths=(cache.primitives_folder / f"{name}.zarr",))
        for name in sorted(_superseded(direct))
    ]
    live = {entry.content_sha256 for entry in encoded if entry.name not in superseded}
    found += [
        removable for name in cache.primitives_names() if (removable := _primitives(cache, name, superseded, live))
    ]
    return found


def _primitives(cache: Cache, name: str, superseded: set[str], live: set[str]) -> Removable | None:
    """Return a primitives entry that is damaged, or made from nothing but a superseded video."""
    path = cache.primitives_folder / f"{name}.zarr"
    try:
        entry = cache.primitives_entry(name)
        if entry is None:
            return None
        entry.check()
        check_parts(entry, hashes=False)
        check_features(entry, hashes=False)
    except CopeError as error:
        return Removable(reason=error.message, name=name, paths=(path,))
    if entry.encoded_name in superseded and entry.manifest.source["sha256"] not in live:
        return Removable(reason=_SUPERSEDED, name=name, paths=(path,))
    return None


def find_named(cache: Cache, names: Iterable[str]) -> list[Removable]:
    """Return named entries as removable, encoded or primitives.

    Raises:
        EntryNotFoundError: there is no entry of that name.
    """
    found = []
    for name in names:
        paths = [
            path for path in (*_encoded_paths(cache, name), cache.primitives_folder / f"{name}.zarr") if path.exists()
        ]
        if not paths:
            raise EntryNotFoundError(f"{cache.root}: no entry {name}", "`cope cache ls` lists them.")
        found.append(Removable(reason="named", name=name, paths=tuple(paths)))
    return found


def _encoded_paths(cache: Cache, name: str) -> tuple[Path, ...]:
    return (cache.encoded_folder / f"{name}.json", cache.encoded_folder / f"{name}.mp4")


def _superseded(entries: Sequence[EncodedEntry | PrimitivesEntry]) -> set[str]:
    """Return the names of entries whose source path and settings are those of an entry of a later file."""
    newest: dict[tuple[str, str], EncodedEntry | PrimitivesEntry] = {}
    old = set()
    for entry in sorted(entries, key=lambda entry: int(entry.manifest.source["mtime_ns"])):
        key = (str(entry.source_path), repr(sorted(entry.manifest.config.items())))
        if key in newest:
            old.add(newest[key].name)
        newest[key] = entry
    return old
