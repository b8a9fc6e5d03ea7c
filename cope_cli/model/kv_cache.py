"""Name of the KV cache argument in transformers: `cache` since 5.24, `past_key_values` before."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any


def cache_option(kv_cache: Any) -> dict[str, Any]:
    """Return the keyword argument of a forward pass, or of `generate`, that passes a KV cache.

    Args:
        kv_cache: from `VideoLM.new_cache`, or None.
    """
    return {_cache_name(): kv_cache}


@cache
def _cache_name() -> str:
    from transformers import Qwen2Model

    return "cache" if "cache" in inspect.signature(Qwen2Model.forward).parameters else "past_key_values"
