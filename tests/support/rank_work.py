"""One rank of a test: runs the jobs of a file one after the other and writes down how each ended.

Started by `rank_setup` with torchrun's environment variables. A job is a stage, a cache, a run folder and changed
settings; with `kill_at` the process ends itself by SIGKILL once that step is logged.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from train_setup import finetune_config, pretrain_config

from cope_cli.cache.store import Cache
from cope_cli.errors import CopeError
from cope_cli.train.finetune.stage import finetune
from cope_cli.train.loop.ranks import join_ranks, leave_ranks
from cope_cli.train.pretrain.stage import pretrain


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    cache, run, changes = Cache(Path(job["cache"])), Path(job["run"]), job["changes"]
    seen: list[int] = []

    def on_progress(step: int, total: int, values: Any) -> None:
        seen.append(step)
        if step == job.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    call: dict[str, Any] = {"on_progress": on_progress, "resume": job.get("resume", False)}
    try:
        if job["kind"] == "pretrain":
            result = pretrain(cache, pretrain_config(**changes), run, **call)
        else:
            result = finetune(cache, finetune_config(Path(job["data"]), **changes), run, **call)
    except CopeError as error:
        return {"error": type(error).__name__, "message": str(error), "reported": seen}
    return {"error": None, "result": str(result), "reported": seen}


def thread_names() -> list[str]:
    """Return the names of this process's threads, those of libraries included."""
    return [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]


def main() -> None:
    torch.set_num_threads(1)
    jobs, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    ranks = join_ranks(cpu=True, timeout_minutes=2)
    outcomes = []
    for job in jobs:
        try:
            outcomes.append(run_job(job))
        except Exception:  # noqa: BLE001  shown by the test
            outcomes.append({"error": "unexpected", "message": traceback.format_exc()})
        ranks.gather(None, "between jobs")
    leave_ranks()
    (out / f"{ranks.index}.threads.json").write_text(json.dumps(thread_names()))
    (out / f"{ranks.index}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
