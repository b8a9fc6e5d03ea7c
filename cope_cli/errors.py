"""Every error that cope raises on purpose.

The message says what happened, where, what was found and what was expected; the hint says how to continue. The command
line turns errors into exit codes in one place: 2 for `UsageError`, 1 for all others. Each class also inherits the
builtin exception that a Python caller would expect.
"""

from __future__ import annotations

import errno
from pathlib import Path


class CopeError(Exception):
    """Base class of cope's own errors.

    Args:
        message: what is wrong, where, what was found and what was expected.
        hint: the command or the change that fixes it; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[CopeError], tuple[str, str]]:
        """Let the error be pickled: it crosses process boundaries."""
        return type(self), (self.message, self.hint)


class UsageError(CopeError, ValueError):
    """A flag or an argument has a value that cannot be used (exit code 2)."""


class TooLongError(UsageError):
    """A prompt does not fit the model's context, not even with one GOP."""


class PathNotFoundError(CopeError, FileNotFoundError):
    """A path does not exist, or holds nothing to work on."""


class VideoError(CopeError, ValueError):
    """A video file cannot be used: unreadable, empty, without a video stream, broken half-way."""


class EntryNotFoundError(CopeError, KeyError):
    """The cache has no such entry."""


class CacheVersionError(CopeError, ValueError):
    """An entry was written by another version of the format."""


class CacheCorruptError(CopeError, ValueError):
    """An entry differs from its manifest: a flipped bit, a missing file, an array of the wrong shape."""


class StorageError(CopeError, OSError):
    """Writing failed: the disk is full, or the folder cannot be written to."""

    @classmethod
    def of(cls, path: Path, error: Exception, verb: str = "cannot be written") -> StorageError:
        """Return the error of a failed write, with a hint that fits the cause."""
        hints = {
            errno.ENOSPC: "The disk is full: free some space and run the command again.",
            errno.EDQUOT: "The disk quota is used up: free some space and run the command again.",
            errno.EACCES: "You may not write there: change the permissions or choose another folder.",
            errno.EPERM: "You may not write there: change the permissions or choose another folder.",
            errno.EROFS: "The file system is read-only: choose another folder.",
            errno.ENOTDIR: "A part of the path is a file: choose another folder.",
            errno.EFBIG: "The file size limit is reached: raise it, see `ulimit -f`.",
        }
        number, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        return cls(f"{path}: {verb}: {reason}", hints.get(number or 0, "Choose another folder and run it again."))


class DataError(CopeError, ValueError):
    """A training item cannot be used."""


class CheckpointError(CopeError, ValueError):
    """A checkpoint folder is incomplete, of another kind, or does not fit what it is used with."""


class WorkerDiedError(CopeError, RuntimeError):
    """A worker process died, for example by a crash in native code."""


class RanksError(CopeError, RuntimeError):
    """The processes of a training run cannot connect, or one of them has died."""
