"""Training that starts from a published checkpoint, in the original layout and stored in bfloat16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import make_base, tensors_of, write_llava, write_weights
from train_setup import finetune_config, pretrain_config

from cope_cli.cache.store import Cache
from cope_cli.errors import CheckpointError, PathNotFoundError
from cope_cli.model.checkpoint.folders import load_delta_encoder, load_videolm
from cope_cli.runs import RunFolder, finished_runs
from cope_cli.train.finetune.stage import choose_delta_encoder, finetune
from cope_cli.train.loop.setup import load_base
from cope_cli.train.pretrain.stage import pretrain

SIZES = {"image_px": 112, "patch_px": 16}  # 7 x 7 patches, pooled to 4 x 4
QUICK: dict[str, Any] = {"delta_preset": "small", "steps": 2, "batch_size": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model in bfloat16."""
    base = make_base(**SIZES)
    path = write_llava(base, tmp_path_factory.mktemp("published") / "model")
    write_weights(path, {name: tensor.bfloat16() for name, tensor in tensors_of(base, "llava").items()})
    return path


@pytest.fixture(scope="module")
def runs(folder: Path, train_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretrain run for it, and a newer one for the small seeded model."""
    root = tmp_path_factory.mktemp("runs")
    pretrain(train_cache, pretrain_config(model=folder, **QUICK), root / "pretrain-1")
    pretrain(train_cache, pretrain_config(steps=1, batch_size=1), root / "pretrain-2")
    return root


def test_pretrain_and_finetune_end_in_a_folder_of_our_own(
    folder: Path, runs: Path, train_cache: Cache, qa: Path
) -> None:
    pretrained = load_delta_encoder(runs / "pretrain-1" / "delta_encoder")
    assert pretrained.vision_sha256 == load_videolm(folder).vision_sha256
    assert pretrained.delta_encoder.config.out_width == 16
    run = RunFolder(runs / "finetune-1", "finetune")
    result = finetune(train_cache, finetune_config(qa, model=folder, **QUICK), run.path)
    described = json.loads(run.config_file.read_text())
    assert described["base_model"] == str(folder)
    assert "pretrain-1" in described["delta_encoder"]
    assert described["settings"]["model"] == str(folder)
    loaded = load_videolm(result)
    assert (loaded.layout, loaded.fusion_frames, loaded.notes) == ("cope", 30, ())
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert loaded.model.delta_encoder is not None
    # The frozen tower is the published one, value by value; the language model has moved.
    assert loaded.vision_sha256 == pretrained.vision_sha256
    before = load_videolm(folder, dtype=torch.float32).model
    assert not torch.equal(loaded.model.base.lm_head.weight, before.base.lm_head.weight)


def test_the_newest_run_for_the_model_is_taken_and_others_are_passed_over(
    folder: Path, runs: Path, qa: Path, tmp_path: Path
) -> None:
    assert [run.name for run in finished_runs(runs, "pretrain")] == ["pretrain-2", "pretrain-1"]
    config = finetune_config(qa, model=folder, **QUICK)
    base = load_base(config)
    assert "pretrain-1" in choose_delta_encoder(base, config, runs)[1]
    other = finetune_config(qa, model=write_llava(make_base(seed=1, **SIZES), tmp_path / "other"), **QUICK)
    encoder, source = choose_delta_encoder(load_base(other), other, runs)
    assert source == f"fresh: none of the 2 finished pretrain runs in {runs} is for this vision tower"
    assert encoder.config.out_width == 16
    window = finetune_config(qa, model=folder, fusion_frames=15, **QUICK)
    with pytest.raises(CheckpointError, match="does not fit: fusion window 30, 15 needed"):
        choose_delta_encoder(base, window, runs)
    # By name: a run, whether or not it is the newest; one for another tower is refused.
    named = finetune_config(qa, model=folder, delta_encoder="pretrain-1", **QUICK)
    assert choose_delta_encoder(base, named, runs)[1] == str(runs / "pretrain-1" / "delta_encoder")
    wrong = finetune_config(qa, model=folder, delta_encoder="pretrain-2", **QUICK)
    with pytest.raises(CheckpointError, match=r"vision tower .* token width 96, 16 needed"):
        choose_delta_encoder(base, wrong, runs)
    gone = finetune_config(qa, model=folder, delta_encoder="pretrain-3", **QUICK)
    with pytest.raises(PathNotFoundError, match="no such run"):
        choose_delta_encoder(base, gone, runs)


@pytest.mark.parametrize("named", ["lmms-lab/small", Path("lmms-lab/small")], ids=["text", "path"])
def test_a_hub_id_names_the_base(folder: Path, qa: Path, monkeypatch: pytest.MonkeyPatch, named: str | Path) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub_id, **_: str(folder))
    config = finetune_config(qa, model=named)
    base = load_base(config, torch.float32)
    assert base.described == "lmms-lab/small"
    assert config.settings()["model"] == "lmms-lab/small"
    assert base.model.base.lm_head.weight.dtype == torch.float32
    assert base.vision_sha256 == load_videolm(folder).vision_sha256


def test_a_note_about_the_base_is_kept_with_the_run(qa: Path, tmp_path: Path) -> None:
    model = write_llava(make_base(**SIZES), tmp_path / "model", mm_newline_position="one_token")
    assert "single newline" in load_base(finetune_config(qa, model=model)).described
