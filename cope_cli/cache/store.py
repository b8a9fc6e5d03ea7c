"""The cache folder: which entries there are, by what names they are found, where new ones are made.

```
cope_cache/
  encoded/<name>-<key8>.mp4 + .json     one re-encoded video
  primitives/<name>-<key8>.zarr/        its slots, with manifest.json inside
  tmp/                                  unfinished entries
```
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from cope_cli.cache.manifest import KEY_DIGITS, Manifest
from cope_cli.cache.temporary import remove_dead_workspaces, workspace
from cope_cli.config import DIRECT, ENCODED_SCHEMA, PRIMITIVES_SCHEMA
from cope_cli.errors import CacheCorruptError, CopeError, EntryNotFoundError, PathNotFoundError
from cope_cli.files import sha256_file

MANIFEST = "manifest.json"
_MAX_NAME = 80
_RENAMED = "Was it renamed? Remove it and run its stage again."


def cache_folder(named: str | Path | None = None) -> Path:
    """Return the cache folder to use: the named one, or else `COPE_CACHE`, or else `cope_cache`; `~` is expanded."""
    return Path(named or os.environ.get("COPE_CACHE") or "cope_cache").expanduser()


def entry_name(stem: str, fingerprint: str) -> str:
    """Return `<name>-<key8>`: a file-system-safe form of the video's name and the head of its fingerprint."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip(".-")[:_MAX_NAME] or "video"
    return f"{safe}-{fingerprint[:KEY_DIGITS]}"


@dataclass(frozen=True, kw_only=True)
class EncodedEntry:
    """One re-encoded video of the cache."""

    name: str
    folder: Path
    manifest: Manifest

    @property
    def video(self) -> Path:
        """The mp4 file."""
        return self.folder / f"{self.name}.mp4"

    @property
    def source_path(self) -> Path:
        """Where the source video was when it was encoded."""
        return Path(self.manifest.source["path"])

    @property
    def content_sha256(self) -> str:
        """Hash of the mp4 file: what the primitives' fingerprint depends on."""
        return self.manifest.files[f"{self.name}.mp4"].sha256

    def check(self, *, hashes: bool = False) -> None:
        """Raise CacheCorruptError if the file is missing or changed."""
        self.manifest.check_files(self.folder, hashes=hashes)


@dataclass(frozen=True, kw_only=True)
class PrimitivesEntry:
    """One video's primitives; read them with `cache.primitives.open_primitives`."""

    name: str
    folder: Path
    manifest: Manifest

    @property
    def is_direct(self) -> bool:
        """Whether they were made from the source file itself, without re-encoding."""
        return self.manifest.config.get("source") == DIRECT

    @property
    def way(self) -> str:
        """How the primitives were made: "direct" or "re-encoded"."""
        return DIRECT if self.is_direct else "re-encoded"

    @property
    def encoded_name(self) -> str:
        """Name of the encoded entry they were extracted from; of a direct one, a name that is the video's alone."""
        return str(self.manifest.source["entry"])

    @property
    def source_path(self) -> Path:
        """Where the source video was when it was encoded, or read directly."""
        return Path(self.manifest.source["path"])

    def check_source(self) -> Path:
        """Return the path of the file that direct primitives were made from, once it is known to be the same still.

        Raises:
            EntryNotFoundError: it is gone, or has changed.
        """
        path, source = self.source_path, self.manifest.source
        again = "Bring it back, or run `cope extract --direct` on what there is now."
        if not path.is_file():
            raise EntryNotFoundError(f"{self.name}: its source {path} is gone, and it was read directly", again)
        stat = path.stat()
        is_untouched = (stat.st_size, stat.st_mtime_ns) == (source["size_bytes"], source["mtime_ns"])
        if not is_untouched and (stat.st_size != source["size_bytes"] or sha256_file(path) != source["sha256"]):
            raise EntryNotFoundError(f"{self.name}: its source {path} has changed since it was read directly", again)
        return path

    def check(self, *, hashes: bool = False) -> None:
        """Raise CacheCorruptError if a file is missing or changed."""
        self.manifest.check_files(self.folder, hashes=hashes)


class Cache:
    """A cache folder. Opening one writes nothing, so that a read-only cache can be read.

    Args:
        root: the folder; it need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.encoded_folder = root / "encoded"
        self.primitives_folder = root / "primitives"
        self.tmp = root / "tmp"

    def __repr__(self) -> str:
        return f"Cache({str(self.root)!r})"

    def check_exists(self) -> None:
        """Raise PathNotFoundError if the folder is not a cache, which holds encoded videos or primitives."""
        if not (self.encoded_folder.is_dir() or self.primitives_folder.is_dir()):
            found = "not a cache" if self.root.is_dir() else "no such folder"
            raise PathNotFoundError(
                f"{self.root}: {found}: expected the folders encoded or primitives in it",
                f"Name a cache with --cache, or make one: `cope encode VIDEOS --cache {self.root}`.",
            )

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give a temporary folder on the cache's file system; see `temporary.workspace`."""
        with workspace(self.tmp) as folder:
            yield folder

    def clean(self) -> int:
        """Remove what killed processes left; returns how many paths."""
        return remove_dead_workspaces(self.tmp)

    def encoded_entry(self, name: str) -> EncodedEntry | None:
        """Return an encoded entry by its name, or None if there is none.

        Raises:
            CacheVersionError, CacheCorruptError: there is one, but it cannot be used.
        """
        path = self.encoded_folder / f"{name}.json"
        if not path.is_file():
            return None
        manifest = Manifest.read(path, kind="encoded", schema=ENCODED_SCHEMA)
        _check_key(path, name, manifest)
        if set(manifest.files) != {f"{name}.mp4"}:
            raise CacheCorruptError(
                f"{path}: its manifest is of {', '.join(manifest.files)}, not of {name}.mp4", _RENAMED
            )
        return EncodedEntry(name=name, folder=self.encoded_folder, manifest=manifest)

    def primitives_entry(self, name: str) -> PrimitivesEntry | None:
        """Return a primitives entry by its name, or None; raises like `encoded_entry`."""
        folder = self.primitives_folder / f"{name}.zarr"
        if not folder.is_dir():
            return None
        manifest = Manifest.read(folder / MANIFEST, kind="primitives", schema=PRIMITIVES_SCHEMA)
        _check_key(folder, name, manifest)
        return PrimitivesEntry(name=name, folder=folder, manifest=manifest)

    def encoded_names(self) -> list[str]:
        """Names of all encoded entries, usable or not."""
        return sorted(path.stem for path in self.encoded_folder.glob("*.json") if not path.name.startswith("."))

    def primitives_names(self) -> list[str]:
        """Names of all primitives entries, usable or not."""
        return sorted(path.stem for path in self.primitives_folder.glob("*.zarr") if not path.name.startswith("."))

    def encoded_entries(self) -> list[EncodedEntry]:
        """All encoded entries; raises at the first that cannot be used."""
        return [entry for name in self.encoded_names() if (entry := self.encoded_entry(name)) is not None]

    def primitives_entries(self) -> list[PrimitivesEntry]:
        """All primitives entries; raises at the first that cannot be used."""
        return [entry for name in self.primitives_names() if (entry := self.primitives_entry(name)) is not None]

    def usable_encoded(self) -> tuple[list[EncodedEntry], dict[str, CopeError]]:
        """All encoded entries that can be used, and the error of each that cannot."""
        entries, errors = [], {}
        for name in self.encoded_names():
            try:
                entry = self.encoded_entry(name)
            except CopeError as error:
                errors[name] = error
            else:
                entries += [entry] if entry is not None else []
        return entries, errors

    def usable_direct(self) -> list[PrimitivesEntry]:
        """All primitives that were made without re-encoding and can be used."""
        entries = []
        for name in self.primitives_names():
            with contextlib.suppress(CopeError):
                entry = self.primitives_entry(name)
                entries += [entry] if entry is not None and entry.is_direct else []
        return entries

    def find_encoded(self, wanted: str, entries: Sequence[EncodedEntry] | None = None) -> list[EncodedEntry]:
        """Return the encoded entries of a video.

        Args:
            wanted: entry name, source path, the end of a source path, its name without ending, or a copy of the source.
            entries: the cache's usable entries, if they are known already.

        Raises:
            EntryNotFoundError: there is none, or sources in several folders have this name; the message lists names.
        """
        exact = self.encoded_entry(wanted) if re.fullmatch(r"[A-Za-z0-9._-]+", wanted) else None
        if exact is not None:
            return [exact]
        entries = self.usable_encoded()[0] if entries is None else entries
        found = [entry for entry in entries if matches_source(entry.source_path, wanted)]
        if not found and not Path(wanted).exists():
            found = [entry for entry in entries if entry.source_path.stem == wanted]
            sources = sorted({str(entry.source_path) for entry in found})
            if len(sources) > 1:
                raise EntryNotFoundError(f"{wanted}: several sources have this name: {', '.join(sources)}", "Name one.")
        if not found and Path(wanted).is_file():  # a copy, elsewhere, of a video that was encoded
            content = sha256_file(Path(wanted))
            found = [entry for entry in entries if entry.manifest.source["sha256"] == content]
        if not found:
            raise EntryNotFoundError(
                f"{self.root}: no encoded video of {wanted}; it holds {_some(self.encoded_names())}",
                f"Run `cope encode {wanted}` first.",
            )
        return found


def matches_source(source: PurePath, wanted: str) -> bool:
    """Whether `wanted` names a source: its path, or the last parts of it (`clips/a.mp4` for `/data/clips/a.mp4`)."""
    if Path(wanted).is_absolute() or Path(wanted).exists():
        return source == Path(wanted).resolve()
    parts = PurePath(wanted).parts
    return bool(parts) and source.parts[-len(parts) :] == parts


def _check_key(path: Path, name: str, manifest: Manifest) -> None:
    if not name.endswith(f"-{manifest.fingerprint[:KEY_DIGITS]}"):
        raise CacheCorruptError(
            f"{path}: its name does not end with its manifest's fingerprint, {manifest.fingerprint[:KEY_DIGITS]}",
            _RENAMED,
        )


def _some(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit]) or "nothing"
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
