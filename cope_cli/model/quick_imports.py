"""Imports transformers without what only compiling and distributed training need.

Its modules import PyTorch's compiler for a few decorators, and its sharded tensors for checks of types. To answer one
question takes neither, and reading them takes longer than all else between command and answer.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

_COMPILER = "torch._dynamo"
_INDEXING = f"{_COMPILER}._trace_wrapped_higher_order_op"
#: Algebra of shapes that are not known yet, on which PyTorch calls to check what is true or false already.
_SHAPES = "torch.fx.experimental.symbolic_shapes"
#: Folders of transformers' models whose classes `from transformers import` finds inside `quick_imports`.
_MODELS = ("auto", "llava_onevision", "qwen2", "siglip")


class _Deferred(ModuleType):
    """Stands for a module: the first thing asked of it that it does not have brings in the real one."""

    def __getattr__(self, name: str) -> Any:
        if name in ("__spec__", "__file__") or (name.startswith("__") and self.__name__ != _COMPILER):
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


def _real(module: str) -> ModuleType:
    """Import a module in place of what stands for it, and put nothing in the place of others any more."""
    for name in (_COMPILER, _INDEXING, _SHAPES):
        if isinstance(sys.modules.get(name), _Deferred):
            del sys.modules[name]
    return importlib.import_module(module)


def _unchanged(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """Decorate nothing: that is what the compiler's marks come to where nothing is compiled."""
    return _unchanged if function is None else function


def _index_mode(*arguments: Any) -> Any:
    return _real(_INDEXING).TransformGetItemToIndex(*arguments)


def _holds(condition: Any, skip: int = 0) -> bool:
    return condition if isinstance(condition, bool) else _real(_SHAPES).expect_true(condition, skip)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Let a process that answers and ends import PyTorch and transformers in less time.

    Inside, transformers believes that PyTorch was built without `distributed`, and goes on to do so. To learn what
    classes it has, it reads the source of those models only that a VideoLM consists of, not of some hundred others. The
    compiler, and the algebra of unknown shapes, come in by themselves as soon as something needs more of them than
    marks on functions. Garbage is not looked for: modules hold what they make. In a process that has imported
    transformers or the compiler before, only that is left.
    """
    gc.disable()
    try:
        if "transformers" not in sys.modules and _COMPILER not in sys.modules:
            _leave_out_compiler()
        yield
    finally:
        gc.freeze()  # nor at the end, when all goes
        gc.enable()


def _scan_models(scandir: Callable[[Any], Any], path: Any = ".") -> Any:
    """List a folder; of that of transformers' models, `_MODELS` only."""
    if Path(path).parts[-2:] != ("transformers", "models"):
        return scandir(path)
    with scandir(path) as entries:
        return nullcontext([entry for entry in entries if entry.name in _MODELS or not entry.is_dir()])


def _leave_out_compiler() -> None:
    import torch

    compiler, indexing = _Deferred(_COMPILER), _Deferred(_INDEXING)
    for name in ("disable", "allow_in_graph", "assume_constant_result"):
        setattr(compiler, name, _unchanged)
    indexing.TransformGetItemToIndex = _index_mode  # type: ignore[attr-defined]
    sys.modules |= {_COMPILER: compiler, _INDEXING: indexing}
    if _SHAPES not in sys.modules:
        shapes = sys.modules[_SHAPES] = _Deferred(_SHAPES)
        shapes.expect_true = _holds  # type: ignore[attr-defined]
    with mock.patch.object(os, "scandir", partial(_scan_models, os.scandir)):
        importlib.import_module("transformers.models")
    from transformers.utils import is_torch_distributed_available

    with mock.patch.object(torch.distributed, "is_available", return_value=False):
        is_torch_distributed_available()  # remembers what it found
