"""The compiler of the kernels: numba, its results kept on disk where there is a place to keep them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from numba import njit

_log = logging.getLogger(__name__)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function at its first call; it runs without Python's lock.

    In an installation that cannot be written, by a user without a home folder, numba has no place for what it compiles:
    then every process compiles anew, which takes seconds. NUMBA_CACHE_DIR names a place.
    """
    try:
        return njit(function, cache=True, nogil=True, **options)
    except RuntimeError as error:
        _log.warning("%s is compiled in each process (set NUMBA_CACHE_DIR): %s", function.__name__, error)
        return njit(function, nogil=True, **options)
