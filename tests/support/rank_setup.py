"""Starting ranks for tests, as torchrun would, each a process whose output and exit code can be told apart."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cope_cli
from cope_cli.cache.store import Cache

HERE = Path(__file__).parent
SRC = Path(cope_cli.__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a rank's process ended."""

    code: int
    output: str


def rank_environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    """Return what torchrun sets, and the paths of the tests' own modules."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SRC), str(HERE)]),
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start_ranks(arguments: Sequence[str], num_ranks: int = 2, timeout_seconds: float = 400) -> list[Ended]:
    """Run `python ARGUMENTS` once per rank and wait for all of them; a rank that hangs fails the test."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=rank_environment(rank, num_ranks, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    try:
        outputs = [process.communicate(timeout=timeout_seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Ended(code=process.returncode, output=output) for process, output in zip(processes, outputs, strict=True)]


def damage(cache: Cache, entry: str) -> None:
    """Flip a byte of an entry's residuals."""
    shard = cache.primitives_folder / f"{entry}.zarr" / "residual" / "c.0.0.0.0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)


def run_jobs(jobs: list[dict[str, Any]], folder: Path, num_ranks: int = 2) -> list[list[dict[str, Any]]]:
    """Run jobs of `rank_work.py` on several ranks; returns for each job how it ended on each rank."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    ended = start_ranks([str(HERE / "rank_work.py"), str(folder / "jobs.json"), str(folder)], num_ranks)
    for one in ended:
        assert one.code == 0, one.output
    outcomes = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(num_ranks)]
    return [list(of_job) for of_job in zip(*outcomes, strict=True)]
