"""One chunk of the fuzzer, from outside: starts tools/fuzz_child.py, ends one that hangs, judges what it says."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.fuzz_mutations import LONG, Mutant
from tools.fuzz_sources import HEALTHY, Corpus

FINE = frozenset({"done", "refused"})
CHILD = Path(__file__).with_name("fuzz_child.py").resolve()

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one mutant; `outcome` is one of `FINE` or says what went wrong."""

    number: int
    kind: str
    file: str
    outcome: str
    error: str = ""
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """What became of a chunk."""

    results: tuple[Result, ...]
    violations: tuple[str, ...]
    max_rss_bytes: int = 0

    def lines(self) -> str:
        """As lines of results.jsonl."""
        rows = [asdict(result) for result in self.results]
        chunk = {"chunk": [result.number for result in self.results], "max_rss_bytes": self.max_rss_bytes}
        rows.append(chunk | {"violations": list(self.violations)})
        return "".join(json.dumps(row) + "\n" for row in rows)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a chunk may take."""

    file_seconds: float = 60.0
    chunk_seconds: float = 600.0
    memory_bytes: int = 4 * 2**30


def run_chunk(corpus: Corpus, mutants: Sequence[Mutant], out: Path, limits: Limits, workers: int) -> ChunkResult:
    """Run mutants and a healthy neighbour; one that hangs is taken out and the others run again."""
    left: list[Mutant] = list(mutants)
    hung: list[Result] = []
    work = out / "work" / mutants[0].stem
    try:
        while True:
            shutil.rmtree(work, ignore_errors=True)
            folder, cache = work / "videos", work / "cache"
            (folder / "long").mkdir(parents=True)
            (folder / f"{HEALTHY}.{corpus.healthy.suffix}").write_bytes(corpus.healthy.data)
            for one in left:
                one.path(folder).write_bytes(one.data)
            events, is_in_time, code, tail = watch(child_command(folder, cache, workers, limits), limits)
            if is_in_time:
                break
            stuck = hanging(events)
            culprit = next((one for one in left if one.stem == stuck), None)
            if culprit is None:
                return ChunkResult(results=tuple(hung), violations=(f"{stuck}: hangs, and is no mutant",))
            hung.append(Result(number=culprit.number, kind=culprit.kind, file=culprit.name, outcome="hang"))
            left.remove(culprit)
        results = [*hung, *(judge(one, folder, events) for one in left)]
        keep(mutants, results, out / "bad")
        return ChunkResult(
            results=tuple(sorted(results, key=lambda result: result.number)),
            violations=tuple(chunk_violations(events, code, tail, limits)),
            max_rss_bytes=next((event["max_rss_bytes"] for event in events if event["event"] == "end"), 0),
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def child_command(folder: Path, cache: Path, workers: int, limits: Limits) -> list[str]:
    """Return the command that puts a folder through all stages under the memory limit."""
    return [sys.executable, *map(str, (CHILD, folder, cache, workers, limits.memory_bytes))]


def watch(command: Sequence[str], limits: Limits) -> tuple[list[Event], bool, int, str]:
    """Run a chunk's child; returns its events, whether it ended in time, its exit code and the end of its stderr.

    A child whose next outcome takes longer than a file may take, or that takes too long altogether, is killed.
    """
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []
    events: list[Event] = []
    begun = time.monotonic()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as child:
        assert child.stdout is not None and child.stderr is not None
        readers = [
            threading.Thread(target=_read_lines, args=(child.stdout, lines)),
            threading.Thread(target=errors.extend, args=(child.stderr,)),
        ]
        for reader in readers:
            reader.start()
        last, is_in_time = begun, True
        while True:
            until = min(last + limits.file_seconds, begun + limits.chunk_seconds)
            try:
                line = lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                is_in_time = False
                break
            if line is None:
                break
            events.append(json.loads(line))
            last = time.monotonic() if events[-1]["event"] != "started" else last
        if not is_in_time:
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        for reader in readers:
            reader.join()
    return events, is_in_time, code, "".join(errors)[-2000:]


def _read_lines(stream: Iterable[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def stem_of(item: str) -> str:
    """Return the stem of the file that an item stands for: a path, `<stem>-<key8>`, or `<kind>/<stem>-<key8>`."""
    return item.rpartition("/")[2].partition(".")[0].partition("-")[0]


def hanging(events: Sequence[Event]) -> str:
    """Return the stem of the file that hung: begun first of those without an outcome, or the first not begun."""
    stage = [event for event in events if event.get("stage") == events[-1].get("stage")] if events else []
    done = {event["item"] for event in stage if event["event"] == "outcome"}
    begun = [event["item"] for event in stage if event["event"] == "started"]
    items = [item for event in stage if event["event"] == "begin" for item in event["items"]]
    return next((stem_of(item) for item in (*begun, *items) if item not in done), "?")


def judge(one: Mutant, folder: Path, events: Sequence[Event]) -> Result:
    """Say what became of a mutant."""
    outcomes = [event for event in events if event["event"] == "outcome" and stem_of(event["item"]) == one.stem]
    failures = [event for event in outcomes if "error" in event]
    failed = next((event for event in failures if event["stage"] == "same"), failures[0] if failures else None)
    stages = Counter(event["stage"] for event in outcomes)
    needed = {"encode": 1, "split": 1, "same": 1} if one.kind == LONG else {"encode": 1, "extract": 1, "verify": 2}
    if failed is None:
        outcome = "done" if stages == needed else "vanished"
    elif failed["error"] == "WorkerDiedError":
        outcome = "worker_died"
    elif failed["error"] == "CopeError":
        outcome = "unforeseen"
    elif failed["stage"] != "encode":
        outcome = f"{failed['stage']}_failed"
    else:
        outcome = "refused" if str(one.path(folder)) in failed["message"] else "unnamed"
    return Result(
        number=one.number,
        kind=one.kind,
        file=one.name,
        outcome=outcome,
        error="" if failed is None else failed["error"],
        message="" if failed is None else failed["message"],
        seconds=round(sum(event["seconds"] for event in outcomes), 2),
    )


def chunk_violations(events: Sequence[Event], code: int, tail: str, limits: Limits) -> Iterator[str]:
    """Yield what is wrong with a chunk as a whole."""
    end = events[-1] if events and events[-1]["event"] == "end" else None
    if end is None or code != 0:
        yield f"the batch itself failed, exit code {code}: {tail.strip()[-600:]}"
    else:
        if end["left"]:
            yield f"left in tmp/: {', '.join(end['left'])}"
        if end["max_rss_bytes"] > limits.memory_bytes:
            yield f"{end['max_rss_bytes'] >> 20} MiB resident, {limits.memory_bytes >> 20} allowed"
    healthy = [event for event in events if event["event"] == "outcome" and stem_of(event["item"]) == HEALTHY]
    if len(healthy) != 4 or any("error" in event for event in healthy):
        yield f"the healthy neighbour was not done: {[event.get('message', event['stage']) for event in healthy]}"


def keep(mutants: Iterable[Mutant], results: Iterable[Result], folder: Path) -> None:
    """Keep the files of mutants that did not end as they should."""
    wrong = {result.number for result in results if result.outcome not in FINE}
    for one in mutants:
        if one.number in wrong:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / one.name).write_bytes(one.data)
