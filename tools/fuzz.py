"""Fuzz the data stages: damaged videos go through encode, extract and verify, and nothing worse than an error may come.

    python tools/fuzz.py sample_videos --out DIR --num 1000 --seed 0 --workers 2 [--json]

Mutant k of seed s is a pure function of (s, k) and the source videos. Mutants run in chunks: a folder of them and one
healthy neighbour, through the batches of the public API, in a child process with a memory limit. Results are appended
to DIR/results.jsonl a chunk at a time; a run that was killed goes on where it stood. Files that did something wrong
are kept in DIR/bad. The sources are in fuzz_sources.py, the damage in fuzz_mutations.py, a chunk in fuzz_chunk.py.

Violations, exit code 1: a batch that raises, a video that vanishes, an error that does not name its file or is no
class of its own (an exception nobody thought of), a finished entry that fails `extract` or `verify`, a healthy
neighbour that fails, a hang, a leftover in tmp/, too much memory, a long video that two workers encode to other bytes
than one. A worker that died is a finding: the crash is a decoder's, the batch survived it; it is listed, for somebody
to look at.

Covered: bytes of videos, in the containers and codecs of the sources and of small encodes made here.
Not covered: damage in the cache (tests/reliability, tests/cache), kills (tools/kill_sweep.py), decoders that FFmpeg was
built without, memory a worker uses below the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, Python looks in tools/ and not beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.fuzz_chunk import FINE, Limits, Result, run_chunk
from tools.fuzz_mutations import mutant
from tools.fuzz_sources import make_corpus


def fuzz(
    paths: Sequence[Path],
    out: Path,
    *,
    num: int,
    seed: int = 0,
    workers: int = 1,
    per_chunk: int = 20,
    limits: Limits | None = None,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Run mutants 0 to num - 1, those without a result yet, and return the report of all.

    Args:
        paths: videos, and folders of them.
        out: folder of the results; what is there is not done again.
        num: how many mutants.
        seed: another seed gives other mutants.
        workers: chunks at a time.
        per_chunk: mutants that share a batch.
        limits: time and memory.
        on_chunk: called with (mutants done, of how many).

    Raises:
        ValueError: `out` holds results of another seed or of other videos.
    """
    out = out.resolve()
    corpus = make_corpus(paths, out / "sources")
    _check_same_run(out / "run.json", {"seed": seed, "corpus_sha256": corpus.sha256})
    path = out / "results.jsonl"
    done = {row["number"] for row in read_rows(path) if "number" in row}
    numbers = [number for number in range(num) if number not in done]
    chunks = [numbers[start : start + per_chunk] for start in range(0, len(numbers), per_chunk)]
    lock = threading.Lock()

    def run(chunk: Sequence[int]) -> None:
        mutants = [mutant(corpus, seed, number) for number in chunk]
        inner_workers = 2 if chunk[0] // per_chunk % 4 == 3 else 1
        result = run_chunk(corpus, mutants, out, limits or Limits(), inner_workers)
        with lock:
            with path.open("a") as file:
                file.write(result.lines())
            done.update(chunk)
            on_chunk(len(done), num)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, chunks))
    return report(read_rows(path), num)


def _check_same_run(path: Path, run: dict[str, Any]) -> None:
    if not path.exists():
        path.write_text(json.dumps(run))
    elif (found := json.loads(path.read_text())) != run:
        raise ValueError(f"{path}: results of {found}, asked for {run}; choose another --out")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the results; a last line that was cut off counts as never written."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def report(rows: Sequence[dict[str, Any]], num: int) -> dict[str, Any]:
    """Count what happened; a mutant whose chunk ran twice counts once."""
    found = {row["number"]: Result(**row) for row in rows if "number" in row and row["number"] < num}
    results = [found[number] for number in sorted(found)]
    chunks = [row for row in rows if "chunk" in row]
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        kinds[result.kind][result.outcome] += 1
    findings = [result for result in results if result.outcome == "worker_died"]
    wrong = [result for result in results if result.outcome not in FINE | {"worker_died"}]
    slowest = max(results, key=lambda result: result.seconds, default=None)
    violations = [f"{result.file} ({result.kind}): {result.outcome}: {result.message}" for result in wrong]
    violations += [violation for chunk in chunks for violation in chunk["violations"]]
    violations += [f"{num - len(results)} mutants have no result"] if len(results) < num else []
    return {
        "num": len(results),
        "kinds": {kind: dict(counts) for kind, counts in sorted(kinds.items())},
        "outcomes": dict(Counter(result.outcome for result in results)),
        "errors": dict(Counter(result.error for result in results if result.error)),
        "max_rss_bytes": max((chunk["max_rss_bytes"] for chunk in chunks), default=0),
        "slowest": None if slowest is None else asdict(slowest),
        "findings": [asdict(result) for result in findings],
        "violations": violations,
    }


def show(found: dict[str, Any]) -> None:
    """Print the report for a person."""
    outcomes = sorted(found["outcomes"])
    print(f"{'mutation':<16}" + "".join(f"{outcome:>16}" for outcome in outcomes))
    for kind, counts in found["kinds"].items():
        print(f"{kind:<16}" + "".join(f"{counts.get(outcome, 0):>16}" for outcome in outcomes))
    print(f"{'all ' + str(found['num']):<16}" + "".join(f"{found['outcomes'][outcome]:>16}" for outcome in outcomes))
    print("errors:", ", ".join(f"{name} {count}" for name, count in sorted(found["errors"].items())) or "none")
    if found["slowest"] is not None:
        print(f"most memory {found['max_rss_bytes'] >> 20} MiB; slowest {found['slowest']['seconds']} s, "
              f"{found['slowest']['file']} ({found['slowest']['kind']})")  # fmt: skip
    for finding in found["findings"]:
        print(f"finding: {finding['file']} ({finding['kind']}): {finding['message']}")
    for violation in found["violations"]:
        print(f"VIOLATION: {violation}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path, help="videos and folders of them")
    parser.add_argument("--out", required=True, type=Path, help="folder of the results")
    parser.add_argument("--num", type=int, default=1000, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="chunks at a time")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    begun = time.monotonic()

    def on_chunk(done: int, total: int) -> None:
        print(f"{done} of {total}, {time.monotonic() - begun:.0f} s", file=sys.stderr)

    found = fuzz(
        options.videos, options.out, num=options.num, seed=options.seed, workers=options.workers, on_chunk=on_chunk
    )
    (options.out / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    return 1 if found["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
