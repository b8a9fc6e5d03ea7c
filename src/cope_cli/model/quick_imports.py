"""Imports transformers without what only compiling and distributed training need.

Its modules import PyTorch's compiler for a few decorators, and its sharded tensors for checks of types. To answer one
question takes neither, and reading them takes longer than all else between command and answer.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

_COMPILER = "torch._dynamo"
_INDEXING = f"{_COMPILER}._trace_wrapped_higher_order_op"


class _Deferred(ModuleType):
    """Stands for a module: the first thing asked of it that it does not have brings in the compiler."""

    def __getattr__(self, name: str) -> Any:
        if name in ("__spec__", "__file__") or (name.startswith("__") and self.__name__ != _COMPILER):
            raise AttributeError(name)
        return getattr(_compiler(self.__name__), name)


def _compiler(module: str) -> ModuleType:
    """Import the compiler in place of what stands for it, and return one of its modules."""
    for name in (_COMPILER, _INDEXING):
        if isinstance(sys.modules.get(name), _Deferred):
            del sys.modules[name]
    importlib.import_module(_COMPILER)
    return importlib.import_module(module)


def _unchanged(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """Decorate nothing: that is what the compiler's marks come to where nothing is compiled."""
    return _unchanged if function is None else function


def _index_mode(*arguments: Any) -> Any:
    return _compiler(_INDEXING).TransformGetItemToIndex(*arguments)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Let a process that answers and ends import PyTorch and transformers in less time.

    Inside, transformers believes that PyTorch was built without `distributed`, and goes on to do so. The compiler comes
    in by itself as soon as something needs more of it than marks on functions. Garbage is not looked for: modules hold
    what they make. In a process that has imported transformers or the compiler before, only that is left.
    """
    gc.disable()
    try:
        if "transformers" not in sys.modules and _COMPILER not in sys.modules:
            _leave_out_compiler()
        yield
    finally:
        gc.freeze()  # nor at the end, when all goes
        gc.enable()


def _leave_out_compiler() -> None:
    import torch

    compiler, indexing = _Deferred(_COMPILER), _Deferred(_INDEXING)
    for name in ("disable", "allow_in_graph", "assume_constant_result"):
        setattr(compiler, name, _unchanged)
    indexing.TransformGetItemToIndex = _index_mode  # type: ignore[attr-defined]
    sys.modules |= {_COMPILER: compiler, _INDEXING: indexing}
    from transformers.utils import is_torch_distributed_available

    with mock.patch.object(torch.distributed, "is_available", return_value=False):
        is_torch_distributed_available()  # remembers what it found
