"""kill -9 in mid-training and in mid-save: the run goes on as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rank_setup import HERE, rank_environment
from train_setup import finetune_config, losses, pretrain_config

from cope_cli.cache.store import Cache
from cope_cli.runs import RunFolder, newest_checkpoint, read_status, step_of
from cope_cli.train.finetune.stage import finetune
from cope_cli.train.pretrain.stage import pretrain

CHANGES: dict[str, dict[str, Any]] = {
    "pretrain": {"batch_size": 3, "accumulate": 2, "steps": 9, "save_steps": 2},
    "finetune": {"batch_size": 2, "steps": 9, "save_steps": 2},
}
#: A save may end between being seen and the kill; the run is then gone on with, and killed again.
MAX_TRIES = 4


def _start(job: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps([job]))
    arguments = [sys.executable, str(HERE / "rank_work.py"), str(folder / "job.json"), str(folder)]
    return subprocess.Popen(arguments, env=rank_environment(0, 1, 0))


def _kill_in_mid_save(process: subprocess.Popen[bytes], run: Path) -> bool:
    """Kill a run when a checkpoint in the making appears; returns whether it was still in the making then."""
    old = set(run.glob(".checkpoint-*"))
    while process.poll() is None:
        if any(next(folder.iterdir(), None) for folder in set(run.glob(".checkpoint-*")) - old):
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            return bool(list(run.glob(".checkpoint-*")))
        time.sleep(0.0005)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_run_killed_in_training_and_in_a_save_has_the_losses_of_an_undisturbed_one(
    train_cache: Cache, qa: Path, tmp_path: Path, kind: Any
) -> None:
    def train(folder: Path, *, resume: bool = False) -> None:
        if kind == "pretrain":
            pretrain(train_cache, pretrain_config(**CHANGES[kind]), folder, resume=resume)
        else:
            finetune(train_cache, finetune_config(qa, **CHANGES[kind]), folder, resume=resume)

    whole, broken = RunFolder(tmp_path / "a" / "whole", kind), RunFolder(tmp_path / "b" / "broken", kind)
    train(whole.path)
    job = {"kind": kind, "cache": str(train_cache.root), "data": str(qa), "run": str(broken.path)}
    job |= {"changes": CHANGES[kind]}

    process = _start({**job, "kill_at": 3}, tmp_path / "first")
    assert process.wait() == -signal.SIGKILL
    assert newest_checkpoint(broken.path) == broken.path / "checkpoint-2"
    assert [line["step"] for line in broken.metrics()] == [1, 2, 3]

    was_in_mid_save = False
    for number in range(MAX_TRIES):
        was_in_mid_save = _kill_in_mid_save(_start({**job, "resume": True}, tmp_path / f"again-{number}"), broken.path)
        if was_in_mid_save or read_status(broken.path)["state"] == "finished":
            break
    assert was_in_mid_save
    checkpoint = newest_checkpoint(broken.path)
    assert checkpoint is not None
    assert step_of(checkpoint) < 9
    assert read_status(broken.path)["state"] == "running"

    train(broken.path, resume=True)
    assert losses(broken.metrics()) == losses(whole.metrics())
    assert [line["step"] for line in broken.metrics()] == list(range(1, 10))
    assert not list(broken.path.glob(".*"))  # what the kill left is gone
    for file in whole.result.glob("*.safetensors"):
        assert (broken.result / file.name).read_bytes() == file.read_bytes(), file.name
