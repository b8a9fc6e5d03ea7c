"""Manifests: what an entry is, what it was made from, and every file of it with size and hash.

A manifest is written last; an entry without one does not exist. Its fields are listed in docs/cache-format.md. It holds
its own SHA-256 too, so that a flipped bit in a size or a setting is no more believed than one in an array.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cope_cli.errors import CacheCorruptError, CacheVersionError
from cope_cli.files import canonical_json, sha256_file, write_json

KEY_DIGITS = 8
_SELF = "manifest_sha256"


def fingerprint(stage: str, schema: int, source_sha256: str, config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything that decides an entry's bytes.

    Args:
        stage: "encode" or "extract".
        schema: version of the layout that is written.
        source_sha256: content hash of the file that is read.
        config: every setting that changes the bytes.
    """
    key = {"stage": stage, "schema": schema, "source_sha256": source_sha256, "config": dict(config)}
    return _sha256_of(key)


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size and hash of one file of an entry."""

    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Measure a file."""
        return cls(size_bytes=path.stat().st_size, sha256=sha256_file(path))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record beside an entry.

    Attributes:
        kind: "encoded", "primitives", "frames" or "features".
        schema: version of the layout.
        fingerprint: 64 hex digits; the entry's name ends with the first eight.
        upstream: fingerprint of the entry this one was made from; "" for an encoded video.
        source: what was read: path, size, time, hash (encoded); the encoded entry's name and hash (primitives).
        config: the settings.
        info: what was found and made: counts, sizes, rates.
        versions: of cope, PyAV and FFmpeg's libraries.
        files: each file by its path relative to the entry's folder.
    """

    kind: str
    schema: int
    fingerprint: str
    upstream: str
    source: dict[str, Any]
    config: dict[str, Any]
    info: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, FileRecord] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the manifest, whole or not at all."""
        data = asdict(self)
        write_json(path, data | {_SELF: _sha256_of(data)})

    @classmethod
    def read(cls, path: Path, *, kind: str, schema: int) -> Manifest:
        """Read a manifest and check that this version of cope understands it.

        Raises:
            CacheVersionError: another schema version; both are named.
            CacheCorruptError: not a manifest of that kind, or one that was changed.
        """
        again = "Remove it with `cope cache prune` and run its stage again."
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            found_schema, found_kind = data["schema"], data["kind"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheCorruptError(f"{path}: not a manifest: {type(error).__name__}: {error}", again) from error
        if found_kind != kind:
            raise CacheCorruptError(f"{path}: a manifest of kind {found_kind!r}, expected {kind!r}", again)
        if found_schema != schema:
            raise CacheVersionError(f"{path}: schema version {found_schema} found, version {schema} expected", again)
        if data.pop(_SELF, None) != _sha256_of(data):
            raise CacheCorruptError(f"{path}: its SHA-256 differs from the one it states: it was changed", again)
        try:
            files = {name: FileRecord(**record) for name, record in data.pop("files").items()}
            manifest = cls(**data, files=files)
        except (KeyError, TypeError, AttributeError) as error:
            raise CacheCorruptError(f"{path}: a field is missing or unknown: {error}", again) from error
        for name in files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise CacheCorruptError(f"{path}: names a file outside its folder: {name!r}", again)
        return manifest

    def check_files(self, folder: Path, *, hashes: bool) -> None:
        """Compare the entry's files with the manifest.

        Args:
            folder: the entry's folder.
            hashes: read every byte; otherwise sizes are compared, and the hashes of JSON files only.

        Raises:
            CacheCorruptError: a file is missing, or has another size or hash.
        """
        for name in self.files:
            self.check_file(folder, name, hashes=hashes or name.endswith(".json"))

    def check_file(self, folder: Path, name: str, *, hashes: bool) -> None:
        """Compare one of the entry's files with the manifest: its size, and its hash if asked for.

        Raises:
            CacheCorruptError: it is missing, not listed, or has another size or hash.
        """
        path = folder / name
        if (record := self.files.get(name)) is None:
            raise CacheCorruptError(f"{path}: the manifest does not list it", _MAKE_AGAIN)
        try:
            size = path.stat().st_size
            if size != record.size_bytes:
                raise CacheCorruptError(f"{path}: {size} bytes found, {record.size_bytes} expected", _MAKE_AGAIN)
            if hashes and sha256_file(path) != record.sha256:
                raise CacheCorruptError(
                    f"{path}: its SHA-256 differs from the manifest: the file was changed", _MAKE_AGAIN
                )
        except OSError as error:
            reason = "missing, the manifest lists it" if isinstance(error, FileNotFoundError) else str(error)
            raise CacheCorruptError(f"{path}: {reason}", _MAKE_AGAIN) from error


_MAKE_AGAIN = "Run the stage that made it again with --force."


def _sha256_of(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def record_files(folder: Path, names: Iterable[Path]) -> dict[str, FileRecord]:
    """Measure files, named relative to `folder` with forward slashes."""
    return {path.relative_to(folder).as_posix(): FileRecord.of(path) for path in sorted(names)}


def record_tree(folder: Path) -> dict[str, FileRecord]:
    """Measure every file below `folder`."""
    return record_files(folder, (path for path in folder.rglob("*") if path.is_file()))
