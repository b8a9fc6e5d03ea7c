"""Several processes that train one model: who writes, who waits, and how all hear of an error of one.

`torchrun` starts the processes, called ranks; without it there is one, and everything here is a plain call. What
ranks say to each other here (one writes, did anyone fail) goes over gloo, on the CPU, apart from the gradients'
traffic, with a time limit that suits slow disks.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from cope_cli.errors import CopeError, RanksError
from cope_cli.files import new_folder

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        index: this one's number, from 0; rank 0 writes.
        count: how many there are.
        timeout_minutes: how long one waits for the others.
    """

    index: int = 0
    count: int = 1
    timeout_minutes: float = 60.0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes."""
        return self.index == 0

    def gather(self, value: T, doing: str) -> list[T]:
        """Return every rank's value, in the order of the ranks.

        Args:
            value: anything that pickle takes.
            doing: in words, for the message: "while ...".

        Raises:
            RanksError: another rank did not come in time, or is gone.
        """
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with self._naming(doing):
            distributed.all_gather_object(found, value, group=_group)
        return found

    def gather_lists(self, values: Sequence[T], doing: str) -> list[T]:
        """Return all ranks' values in one list; hardly any traffic where all are empty. Raises like `gather`."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(len(values))
        with self._naming(doing):
            distributed.all_reduce(total, group=_group)
        return [value for part in self.gather(list(values), doing) for value in part] if total else []

    def all_or_none(self, function: Callable[[], T], doing: str) -> T:
        """Run a function on every rank; an error on one is raised on all. Raises like `gather` and like the function.

        An error other than a CopeError is raised as it is where it happened, and as a RanksError elsewhere.
        """
        error: Exception | None = None
        result: Any = None
        try:
            result = function()
        except Exception as raised:  # noqa: BLE001  the others must hear of it before this one ends
            error = raised
        self.share(error, doing)
        return result

    def share(self, error: Exception | None, doing: str) -> None:
        """Raise the first rank's error on every rank, if any has one; see `all_or_none`."""
        if self.count == 1:
            heard: list[CopeError | None] = [None]
        else:
            heard = self.gather(None if error is None else self._as_cope_error(error, doing), doing)
        if error is not None and not isinstance(error, CopeError):
            raise error
        first = next((one for one in heard if one is not None), error)
        if first is not None:
            raise first

    def from_main(self, function: Callable[[], T], doing: str) -> T:
        """Run a function on rank 0 while the others wait, and return its result, which pickle must take, on all.

        Raises like `all_or_none`.
        """
        result = self.all_or_none(lambda: function() if self.is_main else None, doing)
        if self.count == 1:
            return result  # type: ignore[return-value]
        values: list[Any] = [result]
        with self._naming(doing):
            distributed.broadcast_object_list(values, src=0, group=_group)
        return values[0]

    @contextmanager
    def new_folder(self, path: Path, doing: str) -> Iterator[Path]:
        """Give all ranks the same temporary folder, which takes its name if none of them fails; see `files.new_folder`.

        Raises:
            RanksError: a rank does not see the folder.
        """
        with ExitStack() as stack:
            folder = Path(self.from_main(lambda: str(stack.enter_context(new_folder(path))), doing))
            error: Exception | None = None
            try:
                if not folder.is_dir():
                    raise RanksError(
                        f"rank {self.index} does not see {folder}, which rank 0 has made",
                        "Put --runs on a file system that all machines share.",
                    )
                yield folder
            except Exception as raised:  # noqa: BLE001  told to the others, then raised
                error = raised
            self.share(error, doing)
            self.from_main(stack.close, doing)  # gives the folder its name; an error above has removed it

    def _as_cope_error(self, error: Exception, doing: str) -> CopeError:
        if isinstance(error, CopeError):
            return error
        return RanksError(f"rank {self.index}, {doing}: {type(error).__name__}: {error}", "See that rank's output.")

    @contextmanager
    def _naming(self, doing: str) -> Iterator[None]:
        """Say who waited for whom where a collective call fails."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, CopeError):
                raise
            raise RanksError(
                f"rank {self.index} of {self.count}, {doing}: another rank is gone, or did not come within "
                f"{self.timeout_minutes:g} minutes: {str(error).splitlines()[0]}",
                "See the other ranks' output. If one was only slow, raise --rank-timeout.",
            ) from error


_joined: Ranks | None = None
#: torch's gloo group of all ranks. Held here alone, so that `leave_ranks` can end its threads.
_group: Any = None


def join_ranks(*, cpu: bool, timeout_minutes: float = 60.0) -> Ranks:
    """Return this process's place among those that torchrun started; waits for them when first called.

    Args:
        cpu: use no GPU.
        timeout_minutes: how long a rank waits for the others.

    Raises:
        RanksError: not all of them came.
    """
    global _joined, _group
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if not distributed.is_available() or (count == 1 and not distributed.is_initialized()):
        return Ranks(timeout_minutes=timeout_minutes)
    if _joined is not None and distributed.is_initialized():
        return _joined
    timeout = timedelta(minutes=timeout_minutes)
    try:
        if not distributed.is_initialized():
            is_gpu = torch.cuda.is_available() and not cpu
            if is_gpu:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            distributed.init_process_group("cpu:gloo,cuda:nccl" if is_gpu else "gloo", timeout=timeout)
        _group = distributed.new_group(backend="gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise RanksError(
            f"rank {os.environ.get('RANK', '?')} of {count}: the ranks do not find each other: {error}",
            "Start all of them with torchrun; see docs/training.md.",
        ) from error
    index, count = distributed.get_rank(), distributed.get_world_size()
    _joined = Ranks(index=index, count=count, timeout_minutes=timeout_minutes)
    atexit.register(leave_ranks)  # after an error too
    return _joined


def leave_ranks() -> None:
    """End the connection to the other ranks, if there are any, and its threads.

    gloo ends its threads when nothing refers to the group any more. One that still holds a tensor while Python shuts
    down would abort the process, after all work is done.
    """
    global _joined, _group
    _joined = _group = None
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()  # a Trainer refers to itself, and its model to the group
