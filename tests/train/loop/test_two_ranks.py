"""Two ranks on the CPU, in short: the same losses and evaluations as one rank, stored tokens, and one error for both.

`test_ranks` has more steps, both stages in full, and every policy for what cannot be read.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_setup import damage, run_jobs
from train_setup import SIZE_PX, finetune_config, losses, pretrain_config

from cope_cli.cache.features import Features
from cope_cli.cache.store import Cache
from cope_cli.runs import RunFolder, read_status
from cope_cli.train.finetune.stage import finetune
from cope_cli.train.loop.setup import load_base
from cope_cli.train.pretrain.features import VisionKey
from cope_cli.train.pretrain.stage import pretrain
from cope_cli.train.pretrain.windows import open_pretrain_data

#: One video to train on and one held out, whose tokens are stored; each rank stores those of one of them.
PRETRAIN: dict[str, Any] = {"batch_size": 2, "steps": 3, "held_out": 0.5, "eval_steps": 2, "store_features": True}
FINETUNE: dict[str, Any] = {"batch_size": 1, "steps": 2, "delta_encoder": "fresh"}


def _held_out_entry(cache: Cache) -> str:
    data = open_pretrain_data(cache, pretrain_config(**PRETRAIN), size_px=SIZE_PX)
    (name,) = data.entry_names(data.held_out)
    return name


@pytest.fixture(scope="module")
def two_ranks(train_cache: Cache, qa: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every two-rank run of this file, in one pair of processes: starting them is what takes long."""
    folder = tmp_path_factory.mktemp("ranks")
    whole, damaged = Cache(folder / "whole"), Cache(folder / "damaged")
    for cache in (whole, damaged):
        shutil.copytree(train_cache.root, cache.root)
    entry = _held_out_entry(damaged)
    damage(damaged, entry)
    jobs: dict[str, dict[str, Any]] = {
        "pretrain": {"kind": "pretrain", "cache": str(whole.root), "changes": PRETRAIN},
        "finetune": {"kind": "finetune", "cache": str(whole.root), "changes": FINETUNE, "data": str(qa)},
        "stop": {"kind": "pretrain", "cache": str(damaged.root), "changes": PRETRAIN},
    }
    for name, job in jobs.items():
        job["run"] = str(folder / name)
    outcomes = run_jobs(list(jobs.values()), folder / "work")
    return {"folder": folder, "entry": entry, "cache": whole, **dict(zip(jobs, outcomes, strict=True))}


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_two_ranks_equal_one_with_twice_the_accumulation(
    two_ranks: dict[str, Any], train_cache: Cache, qa: Path, tmp_path: Path, kind: Any
) -> None:
    assert [outcome["error"] for outcome in two_ranks[kind]] == [None, None], two_ranks[kind]
    cache = Cache(tmp_path / "cache")
    shutil.copytree(train_cache.root, cache.root)
    one, two = RunFolder(tmp_path / "run", kind), RunFolder(two_ranks["folder"] / kind, kind)
    if kind == "pretrain":
        pretrain(cache, pretrain_config(**PRETRAIN, accumulate=2), one.path)
    else:
        finetune(cache, finetune_config(qa, **FINETUNE, accumulate=2), one.path)
    for ours, theirs in zip(losses(two.metrics()), losses(one.metrics()), strict=True):
        for line in (ours, theirs):
            del line["epoch"]  # Trainer counts micro-batches, of which an epoch's last step may have fewer
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert read_status(two.path)["state"] == "finished"
    assert len(two.evaluations()) == len(one.evaluations()) == (2 if kind == "pretrain" else 0)
    for ours, theirs in zip(two.evaluations(), one.evaluations(), strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        missing = {name for name, value in theirs.items() if value is None}  # nothing changes in a still video
        assert missing == {name for name, value in ours.items() if value is None}
        assert {k: v for k, v in ours.items() if k not in missing} == pytest.approx(
            {k: v for k, v in theirs.items() if k not in missing}, rel=1e-4
        )
    if kind == "pretrain":
        assert two.config()["beats_copying"] == one.config()["beats_copying"]
        _same_tokens(two_ranks["cache"], cache)


def _same_tokens(left: Cache, right: Cache) -> None:
    base = load_base(pretrain_config())
    name = VisionKey.of(base.model, base.vision_sha256).name
    for ours, theirs in zip(left.primitives_entries(), right.primitives_entries(), strict=True):
        found, expected = Features(ours, name), Features(theirs, name)
        assert found.slots == expected.slots == set(range(ours.manifest.info["num_slots"]))
        for slot in found.slots:
            assert np.array_equal(found.tokens(slot), expected.tokens(slot))


def test_a_damaged_held_out_pair_stops_both_ranks_with_the_same_words(two_ranks: dict[str, Any]) -> None:
    first, second = two_ranks["stop"]
    assert first["error"] == second["error"] == "DataError"
    assert first["message"] == second["message"]
    assert f"entry {two_ranks['entry']}" in first["message"]
    assert read_status(two_ranks["folder"] / "stop")["state"] == "running"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux tells the names of a process's threads")
def test_no_thread_of_gloo_outlives_the_connection(two_ranks: dict[str, Any]) -> None:
    """One that did aborted the process now and then: "terminate called without an active exception"."""
    for rank in range(2):
        names = json.loads((two_ranks["folder"] / "work" / f"{rank}.threads.json").read_text())
        assert names and not [name for name in names if "gloo" in name]
