"""Where entries are made before they have a name: one folder per writer, with a lock that dies with its process.

```
cope_cache/tmp/<id>/       what is being written
cope_cache/tmp/<id>.lock   held by the writer while it lives
```

A folder whose lock nobody holds belongs to a process that was killed, and is removed by the next stage that starts.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cope_cli.errors import CopeError, StorageError
from cope_cli.files import sync_file


@contextlib.contextmanager
def workspace(tmp: Path) -> Iterator[Path]:
    """Give an empty folder that nobody else touches and that is gone when the block ends.

    Args:
        tmp: the cache's folder for temporary files.

    Raises:
        StorageError: it cannot be made, or the block ran into a full disk or a missing permission.
    """
    try:
        tmp.mkdir(parents=True, exist_ok=True)
        lock, folder = _locked_folder(tmp)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
    except CopeError:
        raise
    except OSError as error:
        raise StorageError.of(tmp, error) from error


def _locked_folder(tmp: Path) -> tuple[FileLock, Path]:
    """Make a folder under a held lock; begin again if a clean-up took the lock file before it was held."""
    while True:
        name = uuid.uuid4().hex
        lock = FileLock(tmp / f"{name}.lock")
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
            if Path(lock.lock_file).exists():
                folder = tmp / name
                folder.mkdir()
                return lock, folder
        lock.release()


def dead_workspaces(tmp: Path) -> list[Path]:
    """Return the folders of writers that no longer live, and lock files nobody holds."""
    return [path for path in sorted(tmp.glob("*")) if _is_dead(tmp, path)] if tmp.is_dir() else []


def _is_dead(tmp: Path, path: Path) -> bool:
    name = path.name.removesuffix(".lock")
    lock_file = tmp / f"{name}.lock"
    if not lock_file.exists():
        return True
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # held, or in a cache that cannot be written
        return False
    lock.release()
    return True


def remove_dead_workspaces(tmp: Path) -> int:
    """Remove what killed writers left; returns how many paths. Does nothing in a cache that cannot be written."""
    dead = dead_workspaces(tmp)
    for path in dead:
        with contextlib.suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return len(dead)


def commit_folder(folder: Path, target: Path, *, replace: bool) -> bool:
    """Give a finished folder its final name.

    Args:
        folder: inside a workspace; its files are flushed to the disk first.
        target: the final name.
        replace: put it in the place of an entry that is already there.

    Returns:
        False if another process had committed the same entry before; ours is then dropped.
    """
    for file in folder.rglob("*"):
        if file.is_file():
            sync_file(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    if replace:
        with contextlib.suppress(FileNotFoundError):  # there is none, or another process is replacing it, too
            target.rename(folder.with_name(f"{folder.name}.replaced"))
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
