"""What is in a cache, for the kill sweep: whole or not, the same files as before, the same bytes as undisturbed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from cope_cli.cache.store import Cache
from cope_cli.stages.verify import verify_batch


def tree(root: Path) -> dict[str, str]:
    """Return every file and folder of a cache but tmp/ itself, with a hash that leaves out the source's mtime."""
    paths = (path for path in root.rglob("*") if path != root / "tmp")
    return {path.relative_to(root).as_posix(): "folder" if path.is_dir() else digest(path) for path in paths}


def digest(path: Path) -> str:
    """Return a file's SHA-256; an encoded video's manifest is hashed without the source's modification time."""
    data = path.read_bytes()
    if path.suffix == ".json" and path.parent.name == "encoded":
        manifest = json.loads(data)
        del manifest["source"]["mtime_ns"], manifest["manifest_sha256"]
        data = json.dumps(manifest, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def visible(root: Path) -> dict[str, list[Path]]:
    """Return the entries that a cache shows, by name, with their files."""
    cache = Cache(root)
    encoded = {
        name: [cache.encoded_folder / f"{name}{suffix}" for suffix in (".mp4", ".json")]
        for name in cache.encoded_names()
    }
    primitives = {
        name: [path for path in sorted((cache.primitives_folder / f"{name}.zarr").rglob("*")) if path.is_file()]
        for name in cache.primitives_names()
    }
    return encoded | primitives


def unsound(root: Path) -> Iterator[str]:
    """Verify every visible entry and yield what is wrong."""
    for name in visible(root):
        for outcome in verify_batch([name], root, workers=1).run():
            if outcome.error is not None:
                yield f"{name} is visible and fails verify: {outcome.error}"


def identities(root: Path) -> dict[str, tuple[int, int, str]]:
    """Return inode, time and hash of every file of the visible entries."""
    files = [path for paths in visible(root).values() for path in paths if path.exists()]
    return {
        path.relative_to(root).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns, digest(path)) for path in files
    }


def names_and_inodes(root: Path) -> frozenset[tuple[str, int]]:
    """Return what stands under a final name, quickly enough to be asked all the time."""
    found = []
    for folder in ("encoded", "primitives"):
        with contextlib.suppress(FileNotFoundError):
            found += [(entry.name, entry.inode()) for entry in os.scandir(root / folder)]
    return frozenset(found)


def done_again(before: dict[str, tuple[int, int, str]], after: dict[str, tuple[int, int, str]]) -> Iterator[str]:
    """Yield the files of finished entries that a rerun has touched."""
    for name, identity in before.items():
        if after.get(name) != identity:
            yield f"{name} was finished before the kill and is another file after the rerun"


def differences(expected: dict[str, str], found: dict[str, str]) -> Iterator[str]:
    """Yield where a cache differs from that of an undisturbed run."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield f"{name} is missing after the rerun"
        elif name not in expected:
            yield f"{name} is left over after the rerun"
        elif found[name] != expected[name]:
            yield f"{name} differs from an undisturbed run"
