"""Two ranks on the CPU, over gloo: equal to one, and of one mind about what cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from rank_setup import damage, run_jobs
from train_setup import SIZE_PX, Killed, finetune_config, kill_at, losses, pretrain_config

from cope_cli.cache.frames import Frames
from cope_cli.cache.store import Cache
from cope_cli.runs import RunFolder, read_status
from cope_cli.train.finetune.stage import finetune
from cope_cli.train.pretrain.stage import pretrain

#: 15 pairs in steps of 4, five items in steps of 2: the last step of an epoch is uneven, or leaves a rank without any.
SIZES: dict[str, dict[str, Any]] = {"pretrain": {"batch_size": 2}, "finetune": {"batch_size": 1}}
NUM_STEPS = 20

pytestmark = pytest.mark.slow  # `test_two_ranks` has the essence


@pytest.fixture(scope="module")
def two_ranks(train_cache: Cache, qa: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every two-rank run of this file, in one pair of processes: starting them is what takes long."""
    folder = tmp_path_factory.mktemp("ranks")
    whole, damaged = Cache(folder / "whole"), Cache(folder / "damaged")
    for cache in (whole, damaged):
        shutil.copytree(train_cache.root, cache.root)
    entry = next(name for name in damaged.primitives_names() if name.startswith("camera_pan"))
    damage(damaged, entry)
    jobs: dict[str, dict[str, Any]] = {}
    for kind, sizes in SIZES.items():
        common = {"kind": kind, "data": str(qa)}
        changes = {**sizes, "steps": NUM_STEPS, "save_steps": 8}
        jobs[f"{kind}-whole"] = {**common, "cache": str(whole.root), "changes": changes}
        jobs[f"{kind}-stop"] = {**common, "cache": str(damaged.root), "changes": {**changes, "steps": 8}}
        jobs[f"{kind}-skip"] = {**common, "cache": str(damaged.root), "changes": {**changes, "steps": 8, "skip_bad": 3}}
        few = {**changes, "steps": 8, "skip_bad": 1}
        jobs[f"{kind}-few"] = {**common, "cache": str(damaged.root), "changes": few}
    for name, job in jobs.items():
        job["run"] = str(folder / name / "run")
    outcomes = run_jobs(list(jobs.values()), folder / "work")
    return {"folder": folder, "entry": entry, "cache": whole, **dict(zip(jobs, outcomes, strict=True))}


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_two_ranks_equal_one_with_twice_the_accumulation(
    two_ranks: dict[str, Any], train_cache: Cache, qa: Path, tmp_path: Path, kind: Any
) -> None:
    assert [outcome["error"] for outcome in two_ranks[f"{kind}-whole"]] == [None, None], two_ranks[f"{kind}-whole"]
    two = RunFolder(two_ranks["folder"] / f"{kind}-whole" / "run", kind)
    one = RunFolder(tmp_path / "run", kind)
    changes = {**SIZES[kind], "steps": NUM_STEPS, "accumulate": 2}
    if kind == "pretrain":
        pretrain(train_cache, pretrain_config(**changes), one.path)
    else:
        finetune(train_cache, finetune_config(qa, **changes), one.path)
    for ours, theirs in zip(losses(two.metrics()), losses(one.metrics()), strict=True):
        for line in (ours, theirs):
            del line["epoch"]  # Trainer counts micro-batches, of which an epoch's last step may have fewer
        assert ours.pop("grad_norm") == pytest.approx(theirs.pop("grad_norm"), rel=1e-3)
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert two.config()["learning_rate"] == one.config()["learning_rate"]
    assert two.config()["batch"] == one.config()["batch"].replace("1 rank x 2 micro-batches", "2 ranks x 1 micro-batch")


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_rank_0_alone_writes_and_reports(two_ranks: dict[str, Any], kind: Any) -> None:
    first, second = two_ranks[f"{kind}-whole"]
    assert first["reported"] == list(range(1, NUM_STEPS + 1))
    assert second["reported"] == []
    assert first["result"] == second["result"]
    run = RunFolder(two_ranks["folder"] / f"{kind}-whole" / "run", kind)
    assert [line["step"] for line in run.metrics()] == list(range(1, NUM_STEPS + 1))
    assert read_status(run.path)["state"] == "finished"
    checkpoint = run.path / f"checkpoint-{NUM_STEPS}"
    assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"} <= {path.name for path in checkpoint.iterdir()}
    assert not list(run.path.glob(".*"))  # nothing temporary is left
    if kind == "pretrain":  # every slot is needed; the cache had the I-frames only
        for entry in two_ranks["cache"].primitives_entries():
            assert Frames(entry, SIZE_PX).slots == set(range(entry.manifest.info["num_slots"]))


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_damaged_entry_stops_both_ranks_with_the_same_words(two_ranks: dict[str, Any], kind: Any) -> None:
    first, second = two_ranks[f"{kind}-stop"]
    assert first["error"] == second["error"] == "DataError"
    assert first["message"] == second["message"]
    assert f"entry {two_ranks['entry']}" in first["message"]
    assert "--skip-bad" in first["message"] or "cope extract" in first["message"]


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_sample_left_out_on_one_rank_costs_no_step(two_ranks: dict[str, Any], kind: Any) -> None:
    first, second = two_ranks[f"{kind}-skip"]
    assert first["error"] is second["error"] is None, (first, second)
    run = RunFolder(two_ranks["folder"] / f"{kind}-skip" / "run", kind)
    assert [line["step"] for line in run.metrics()] == list(range(1, 9))
    skipped = run.skipped()
    assert 1 <= len(skipped) <= 3
    assert all(two_ranks["entry"] in line["where"] for line in skipped)
    whole = RunFolder(two_ranks["folder"] / f"{kind}-whole" / "run", kind).metrics()
    first_bad = min(line["step"] for line in skipped)
    for ours, theirs in zip(run.metrics()[: first_bad - 1], whole, strict=False):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    assert run.metrics()[first_bad - 1]["loss"] != pytest.approx(whole[first_bad - 1]["loss"], rel=1e-6)


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_more_bad_samples_than_allowed_stop_both_ranks(two_ranks: dict[str, Any], kind: Any) -> None:
    skipped = RunFolder(two_ranks["folder"] / f"{kind}-skip" / "run", kind).skipped()
    first, second = two_ranks[f"{kind}-few"]
    if len(skipped) == 1:
        assert first["error"] is second["error"] is None
    else:
        assert first["error"] == second["error"] == "DataError"
        assert first["message"] == second["message"]
        assert "2 samples could not be read, --skip-bad 1 allows no more" in first["message"]


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_run_that_one_rank_began_goes_on_with_two(
    train_cache: Cache, qa: Path, tmp_path: Path, kind: Literal["pretrain", "finetune"]
) -> None:
    changes = {"batch_size": 1, "global_batch": 2, "steps": 6, "save_steps": 2}
    undisturbed, run = RunFolder(tmp_path / "undisturbed", kind), RunFolder(tmp_path / "run", kind)

    def train(run: RunFolder, **call: Any) -> None:
        if kind == "pretrain":
            pretrain(train_cache, pretrain_config(**changes), run.path, **call)
        else:
            finetune(train_cache, finetune_config(qa, **changes), run.path, **call)

    train(undisturbed)
    with pytest.raises(Killed):
        train(run, on_progress=kill_at(4))
    job = {"kind": kind, "data": str(qa), "cache": str(train_cache.root), "run": str(run.path), "resume": True}
    ((first, second),) = run_jobs([{**job, "changes": changes}], tmp_path / "work")
    assert first["error"] is second["error"] is None, (first, second)
    assert first["reported"][0] > 2  # not from the beginning
    assert "2 ranks" in run.config()["batch"]
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4, 5, 6]
    for ours, theirs in zip(run.metrics(), undisturbed.metrics(), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
