"""`torchrun -m -- cope_cli train ...` as a user types it, and a rank that does not come."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rank_setup import HERE, SRC, damage, start_ranks
from train_setup import GRID_PX

from cope_cli.cache.store import Cache
from cope_cli.runs import RunFolder, read_status


def test_a_rank_that_does_not_come_is_said_not_waited_for(tmp_path: Path) -> None:
    waiting, _ = start_ranks([str(HERE / "wait_work.py")], timeout_seconds=60)
    assert waiting.code == 3, waiting.output
    assert "RanksError: rank 0 of 2, while rank 0 adds RGB slots: another rank is gone" in waiting.output
    assert "within 0.05 minutes" in waiting.output
    assert "raise --rank-timeout" in waiting.output


@pytest.mark.slow
def test_a_sample_that_cannot_be_read_ends_every_rank_with_exit_code_1(train_cache: Cache, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    shutil.copytree(train_cache.root, cache.root)
    entry = next(name for name in cache.primitives_names() if name.startswith("camera_pan"))
    damage(cache, entry)
    options = ["--steps", "8", "--batch-size", "2", "--held-out", "0", "--runs", str(tmp_path / "runs")]
    common = ["--device", "cpu", "--grid", str(GRID_PX), "--cache", str(cache.root)]
    ended = start_ranks(["-m", "cope_cli", "train", "pretrain", *options, *common])
    assert [rank.code for rank in ended] == [1, 1], [rank.output for rank in ended]
    for rank in ended:
        assert f"entry {entry}" in rank.output
        assert "Traceback" not in rank.output
    status = read_status(tmp_path / "runs" / "pretrain-1")
    assert status["state"] != "finished"


@pytest.mark.slow
def test_torchrun_with_two_ranks_needs_nothing_else(train_cache: Cache, qa: Path, tmp_path: Path) -> None:
    def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        common = [
            "--device",
            "cpu",
            "--grid",
            str(GRID_PX),
            "--runs",
            str(tmp_path / "runs"),
            "--cache",
            str(train_cache.root),
        ]
        return subprocess.run(
            [*launcher, "-m", "--", "cope_cli", "train", *arguments, *common],
            env={**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=500,
        )

    sizes = ("--steps", "3", "--batch-size", "2")
    pretrained = torchrun("pretrain", *sizes, "--global-batch", "8", "--json", "--run", "own")
    assert pretrained.returncode == 0, pretrained.stderr
    run = tmp_path / "runs" / "own"
    assert json.loads(pretrained.stdout)["run"] == str(run)  # printed once, by rank 0
    assert pretrained.stderr.count("global batch 8 = 2 samples x 2 ranks x 2 micro-batches") == 1
    assert [line["step"] for line in RunFolder(run, "pretrain").metrics()] == [1, 2, 3]

    finetuned = torchrun("finetune", "--data", str(qa), "--steps", "2", "--batch-size", "1", "--group-by-length")
    assert finetuned.returncode == 0, finetuned.stderr
    assert read_status(tmp_path / "runs" / "finetune-1")["state"] == "finished"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["finetune-1", "own"]

    refused = torchrun("pretrain", *sizes, "--global-batch", "6")
    assert refused.returncode != 0
    assert "--global-batch 6: not a multiple of 2 samples x 2 ranks" in refused.stderr
    assert "The nearest are 4 or 8" in refused.stderr
