"""Verifying many entries at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cope_cli.cache.store import Cache
from cope_cli.cache.verify import VerifyRecord, verify_encoded, verify_primitives
from cope_cli.errors import EntryNotFoundError
from cope_cli.stages.batch import Batch


def verify_batch(names: Sequence[str], cache_root: Path, *, workers: int = 0) -> Batch[VerifyRecord]:
    """Prepare the verification of entries.

    Args:
        names: entry names; none means every entry of the cache.
        cache_root: the cache folder.
        workers: processes at a time; 0 means one per core.

    Raises:
        EntryNotFoundError: there is nothing to verify, or no entry of a given name.
    """
    cache = Cache(cache_root)
    known = [*(f"encoded/{name}" for name in cache.encoded_names())]
    known += [f"primitives/{name}" for name in cache.primitives_names()]
    if not known:
        raise EntryNotFoundError(f"{cache_root}: an empty cache", "Run `cope encode PATHS...` first.")
    for name in names:
        if not any(item.endswith(f"/{name}") for item in known):
            raise EntryNotFoundError(f"{cache_root}: no entry {name}", "`cope cache ls` lists them.")
    items = [item for item in known if not names or item.partition("/")[2] in names]
    return Batch(items=items, work=partial(_verify_item, cache_root=cache_root), workers=workers)


def _verify_item(item: str, report: Callable[[float, float], None], *, cache_root: Path) -> VerifyRecord:
    kind, _, name = item.partition("/")
    if kind == "encoded":
        return verify_encoded(name, Cache(cache_root))
    return verify_primitives(name, Cache(cache_root), on_progress=report)
