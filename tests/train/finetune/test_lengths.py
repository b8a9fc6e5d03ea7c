"""Keyframes drawn per sample, and samples that the context is too short for, in a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from train_setup import GRID_PX, Killed, finetune_config, kill_at, losses

from cope_cli.cache.store import Cache
from cope_cli.data.datasets import FinetuneDataset
from cope_cli.errors import DataError
from cope_cli.model.checkpoint.folders import save_videolm
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.runs import RunFolder, read_status
from cope_cli.train.finetune.stage import finetune


def test_a_killed_run_draws_the_same_keyframes_as_a_whole_one(
    train_cache: Cache, qa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []
    set_epoch = FinetuneDataset.set_epoch
    monkeypatch.setattr(
        FinetuneDataset, "set_epoch", lambda self, epoch: (epochs.append(epoch), set_epoch(self, epoch))
    )
    # Five items, two per step: three steps an epoch. Killed in the second, gone on with in it and through the third.
    config = finetune_config(qa, keyframes="1:2,2:1,4:1", steps=7, save_steps=4, workers=1)
    whole, broken = RunFolder(tmp_path / "whole", "finetune"), RunFolder(tmp_path / "broken", "finetune")
    finetune(train_cache, config, whole.path)
    with pytest.raises(Killed):
        finetune(train_cache, config, broken.path, on_progress=kill_at(5))
    assert set(epochs) == {0, 1, 2}
    epochs.clear()
    finetune(train_cache, config, broken.path, resume=True)
    assert set(epochs) == {1, 2}
    assert losses(broken.metrics()) == losses(whole.metrics())
    assert whole.config()["settings"]["keyframes"] == "1:2,2:1,4:1"


def _model(folder: Path, context_tokens: int) -> Path:
    model, tokenizer = build_small_videolm(grid_px=GRID_PX)
    model.base.config.text_config.max_position_embeddings = context_tokens
    save_videolm(model, tokenizer, folder, fusion_frames=30)
    return folder


def test_samples_over_the_context_are_counted_never_cut_in_silence(
    train_cache: Cache, qa: Path, tmp_path: Path
) -> None:
    # A keyframe takes 56 tokens of this model and a P slot 10. camera_pan has two GOPs, still_scene one.
    items = json.loads(qa.read_text())
    items[4]["conversations"][0]["value"] = "Why? " * 400
    data = tmp_path / "data.json"
    data.write_text(json.dumps(items))
    model = _model(tmp_path / "model", 300)
    config = finetune_config(data, model=model, steps=6, batch_size=1, learning_rate=1e-4)
    with pytest.raises(DataError, match=r"item 4 .*not even one GOP fits"):
        finetune(train_cache, config, tmp_path / "stops")
    run = RunFolder(tmp_path / "run", "finetune")
    skipping = finetune_config(data, **{**_changes(config), "skip_bad": True, "log_steps": 3})
    finetune(train_cache, skipping, run.path)
    shortened = run.shortened()
    assert sorted(line["where"].split(" (")[0][-6:] for line in shortened) == ["item 2", "item 3"]
    assert {(line["num_gops"], line["num_gops_wanted"]) for line in shortened} == {(1, 2)}
    assert [line["is_too_long"] for line in run.skipped()] == [True]
    # Six steps of one sample: all five, and one of them again.
    metrics = run.metrics()
    assert sum(line["num_shortened"] for line in metrics) in (2, 3)
    assert sum(line["num_too_long"] for line in metrics) in (1, 2)
    status = read_status(run.path)
    assert (status["num_skipped"], status["num_too_long"], status["num_shortened"]) == (1, 1, 2)


def _changes(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("model", "steps", "batch_size", "learning_rate")}
