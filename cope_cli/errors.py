"""Every error cope raises on purpose.

The message says what happened, where, what was found and what was expected; the hint says how to go on.
The command line turns them into an exit code in one place: 2 for `UsageError`, 1 for the others. Each also
inherits the builtin a Python caller would look for.
"""

from __future__ import annotations


class CopeError(Exception):
    """Base of all of cope's own errors.

    Args:
        message: what is wrong, where, found and expected.
        hint: the command or the change that mends it; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[CopeError], tuple[str, str]]:
        """Survive the way back from a worker process."""
        return type(self), (self.message, self.hint)


class UsageError(CopeError, ValueError):
    """A flag or an argument has a value that cannot be used (exit code 2)."""


class TooLongError(UsageError):
    """A prompt does not fit the model's context, not even with one GOP."""


class PathNotFoundError(CopeError, FileNotFoundError):
    """A path given by the user does not exist, or holds nothing to work on."""


class VideoError(CopeError, ValueError):
    """A video file cannot be used: unreadable, empty, without a video stream, broken half-way."""


class EntryNotFoundError(CopeError, LookupError):
    """The cache has no such entry."""


class CacheVersionError(CopeError, ValueError):
    """An entry was written by another version of the format."""


class CacheCorruptError(CopeError, ValueError):
    """An entry differs from its manifest: a flipped bit, a missing file, an array of the wrong shape."""


class StorageError(CopeError, OSError):
    """Writing failed: disk full, no permission."""


class DataError(CopeError, ValueError):
    """A training item cannot be used."""


class CheckpointError(CopeError, ValueError):
    """A checkpoint folder is incomplete, of another kind, or does not fit what it is used with."""


class WorkerDiedError(CopeError, RuntimeError):
    """A worker process ended without an answer, for example by a crash in native code."""


class RanksError(CopeError, RuntimeError):
    """Processes that train together do not find each other, or one of them is gone."""
