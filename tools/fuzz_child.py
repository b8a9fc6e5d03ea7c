"""One chunk of the fuzzer, in a process of its own: all stages over a folder of videos, an event a line on stdout.

    python tools/fuzz_child.py VIDEOS CACHE WORKERS MEMORY_BYTES

Events: a batch "begin"s with its items, an item is "started", has an "outcome" (with an error or without), and the
chunk comes to its "end". Started and judged by tools/fuzz_chunk.py; imports nothing else of tools.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def run_stages(folder: Path, cache: Path, workers: int) -> None:
    """Put a folder's files through all stages and print what becomes of them; each of long/ is encoded twice."""
    from cope_cli.config import EncodeConfig, ExtractConfig
    from cope_cli.stages.encode import encode_batch
    from cope_cli.stages.extract import extract_batch
    from cope_cli.stages.verify import verify_batch

    encode_config = EncodeConfig(fps=10, gop_frames=12, short_side_px=96)
    extract_config = ExtractConfig(fusion_frames=4, grid_px=64)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    _run_batch("encode", encode_batch(files, cache, encode_config, workers=workers))
    _run_batch("extract", extract_batch([], cache, extract_config, workers=workers))
    _run_batch("verify", verify_batch([], cache, workers=workers))
    caches = [cache.with_name(f"{cache.name}-{number}") for number in (1, 2)]
    for file in sorted((folder / "long").glob("*")):
        for number, root in enumerate(caches, 1):
            config = EncodeConfig(fps=30, gop_frames=60)
            _run_batch("encode" if number == 1 else "split", encode_batch([file], root, config, workers=number))
        one, two = ([path.read_bytes() for path in sorted(root.glob(f"encoded/{file.stem}-*"))] for root in caches)
        differs = {} if one == two else {"error": "Differs", "message": f"{file}: other bytes from two workers"}
        _emit(event="outcome", stage="same", item=str(file), seconds=0.0, **differs)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    left = [str(path.relative_to(cache.parent)) for root in (cache, *caches) for path in (root / "tmp").glob("*")]
    _emit(event="end", max_rss_bytes=peak * 1024, left=left)


def _run_batch(stage: str, batch: Any) -> None:
    last = time.monotonic()
    items = [*batch.errors, *batch.items]
    _emit(event="begin", stage=stage, items=items)
    started: set[str] = set()

    def on_progress(item: str, done: float, total: float) -> None:
        if item not in started:
            started.add(item)
            _emit(event="started", stage=stage, item=item)

    for outcome in batch.run(on_progress):
        now = time.monotonic()
        error = outcome.error
        failure = {} if error is None else {"error": type(error).__name__, "message": str(error)}
        _emit(event="outcome", stage=stage, item=outcome.item, seconds=round(now - last, 2), **failure)
        last = now


def _emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    _, videos, cache, workers, memory_bytes = sys.argv
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    run_stages(Path(videos), Path(cache), int(workers))
