"""FSDP2: the model cut by our layer classes over two ranks on the CPU, and `--fsdp` where it cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rank_setup import HERE, start_ranks
from shard_work import RATE, answer, batch_of, build, num_items
from train_setup import Killed, finetune_config, kill_at, losses, pretrain_config

from cope_cli.cache.store import Cache
from cope_cli.errors import UsageError
from cope_cli.model.checkpoint.folders import load_delta_encoder, load_videolm
from cope_cli.runs import RunFolder
from cope_cli.train.finetune.stage import finetune
from cope_cli.train.loop.ranks import Ranks
from cope_cli.train.loop.sharding import (
    LAYER_CLASSES,
    check_fsdp,
    check_is_sharded,
    checkpoint_activations,
    layer_classes,
)
from cope_cli.train.pretrain.stage import pretrain


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    for ended in start_ranks([str(HERE / "shard_work.py"), str(out)]):
        assert ended.code == 0, ended.output
    return out


def _one_step(kind: str) -> Any:
    """The same step in one process: both ranks' batches, one after the other."""
    model, recipe = build(kind)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    for rank in range(2):
        batch, labels = batch_of(kind, model, rank)
        recipe.loss(model, batch, labels, num_items(kind))[0].backward()
    optimizer.step()
    return model


@pytest.mark.parametrize("name", ["finetune-False", "pretrain-False", "finetune-True"])
def test_a_sharded_step_saved_whole_gives_the_same_answer_in_one_process(two_ranks: Path, name: str) -> None:
    kind = name.partition("-")[0]
    model, _ = build(kind)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    if kind == "pretrain":
        loaded = load_delta_encoder(two_ranks / name)
        assert loaded.alignment is not None
        model.delta_encoder, model.alignment = loaded.delta_encoder, loaded.alignment  # type: ignore[assignment]
    else:
        model.load_state_dict(load_videolm(two_ranks / name).model.state_dict())
    said = torch.load(two_ranks / f"{name}.pt", weights_only=True)
    assert torch.allclose(answer(kind, model), said, rtol=1e-5, atol=1e-5)
    # And the step itself is that of one process with both batches; without it the answer would be another.
    expected = _one_step(kind)
    after = dict(model.named_parameters())
    for key, parameter in expected.named_parameters():
        assert torch.allclose(parameter, after[key], rtol=1e-4, atol=1e-6), key
    moved = {key for key, value in after.items() if not torch.equal(value, start[key])}
    assert any(key.startswith("delta_encoder.motion_branch") for key in moved)
    if kind == "finetune":
        assert any(".vision_tower." in key for key in moved)
        assert any(".language_model." in key for key in moved)


def test_each_stage_is_cut_at_the_layers_it_has() -> None:
    assert layer_classes(build("finetune")[0]) == list(LAYER_CLASSES)
    assert layer_classes(build("pretrain")[0]) == ["SiglipEncoderLayer", "PreNormLayer"]


def test_activations_computed_again_change_no_gradient() -> None:
    gradients = []
    for is_again in (False, True):
        model, recipe = build("finetune", train_vision=False)
        if is_again:
            # The language model's layers and two of each branch; the frozen tower keeps nothing that could be spared.
            assert checkpoint_activations(model) == len(model.base.model.language_model.layers) + 4
        batch, labels = batch_of("finetune", model, 0)
        recipe.loss(model, batch, labels, num_items("finetune"))[0].backward()
        named = {key.replace("_checkpoint_wrapped_module.", ""): p for key, p in model.named_parameters()}
        gradients.append({key: p.grad for key, p in named.items() if p.grad is not None})
        assert set(model.state_dict()) == set(build("finetune")[0].state_dict())
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][key], rtol=1e-5, atol=1e-7), key


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_run_with_activations_computed_again_is_saved_and_gone_on_with_like_any(
    train_cache: Cache, qa: Path, tmp_path: Path, kind: Any
) -> None:
    def train(name: str, **changes: Any) -> RunFolder:
        run = RunFolder(tmp_path / name / "run", kind)
        resume = run.path.exists()
        on_progress = kill_at(2) if changes.pop("is_killed", False) else lambda step, total, values: None
        values = {"steps": 3, "save_steps": 1, "batch_size": 2, **changes}
        if kind == "pretrain":
            pretrain(train_cache, pretrain_config(**values), run.path, resume=resume, on_progress=on_progress)
        else:
            finetune(train_cache, finetune_config(qa, **values), run.path, resume=resume, on_progress=on_progress)
        return run

    plain = train("plain")
    with pytest.raises(Killed):
        train("again", activation_checkpointing=True, is_killed=True)
    again = train("again", activation_checkpointing=True)
    for ours, theirs in zip(losses(again.metrics()), losses(plain.metrics()), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_fsdp_that_cannot_be_had_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    check_fsdp(pretrain_config(), Ranks())
    with pytest.raises(UsageError, match="there is one rank") as caught:
        check_fsdp(pretrain_config(fsdp=True), Ranks())
    assert "torchrun" in caught.value.hint
    with pytest.raises(UsageError, match="--device cpu was given"):
        check_fsdp(pretrain_config(fsdp=True), Ranks(count=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no GPU is found"):
        check_fsdp(pretrain_config(fsdp=True, device="auto"), Ranks(count=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_fsdp(pretrain_config(fsdp=True, device="auto"), Ranks(count=2))


def test_a_model_that_was_not_sharded_is_noticed() -> None:
    with pytest.raises(UsageError, match="accelerate has not sharded the model, which is a Linear"):
        check_is_sharded(torch.nn.Linear(2, 2))
