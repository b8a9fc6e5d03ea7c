from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cope_cli.errors import UsageError
from cope_cli.train.finetune.config import FinetuneConfig
from cope_cli.train.pretrain.config import PretrainConfig

DATA = Path("qa.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"accumulate": 0}, "--accumulate 0"),
        ({"learning_rate": 0.0}, "--lr 0.0"),
        ({"warmup_steps": -1}, "--warmup -1"),
        ({"schedule": "step"}, "--schedule step: expected cosine, linear or constant"),
        ({"adam_beta2": 1.0}, "--beta2 1.0: expected above 0 and below 1"),
        ({"epochs": 0.0}, "--epochs 0.0"),
        ({"save_steps": 0}, "--save-steps 0"),
        ({"workers": -1}, "--workers -1"),
        ({"steps": 3, "epochs": 1.0}, "--steps 3 and --epochs 1.0"),
        ({"grid_px": 100}, "--grid 100"),
        ({"fusion_frames": 0}, "--fusion 0"),
        ({"keyframes": 0}, "--keyframes 0"),
        ({"max_gops": 0}, "--max-gops 0"),
        ({"skip_bad": -1}, "--skip-bad -1"),
        ({"rank_timeout_minutes": 0.0}, "--rank-timeout 0.0"),
        ({"global_batch": 0}, "--global-batch 0"),
        ({"keyframes": "1:2,x"}, "--keyframes 1:2,x"),
        ({"freeze": ("vision",)}, "--freeze vision: expected llm, projector or delta-encoder"),
        ({"freeze": ("projector", "llm", "delta-encoder")}, "nothing is left to train"),
        ({"lora": 0}, "--lora 0"),
        ({"lora_alpha": 8}, "--lora-alpha 8: there is no --lora"),
        ({"lora": 4, "freeze": ("llm",)}, "--lora 4 --freeze llm"),
        ({"vision_learning_rate": 0.0}, "--vision-lr 0.0"),
    ],
)
def test_a_bad_value_names_its_flag(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FinetuneConfig(data=DATA, **changes)


def test_the_papers_rate_follows_the_global_batch() -> None:
    config = PretrainConfig(model=Path("m"), batch_size=16, accumulate=4)
    assert config.resolved_learning_rate() == 6.25e-5
    assert config.resolved_learning_rate(num_ranks=16) == pytest.approx(6.25e-5 * 16)  # 1024: the paper's run
    assert PretrainConfig(model=Path("m"), learning_rate=3e-4).resolved_learning_rate() == 3e-4
    assert FinetuneConfig(data=DATA, model=Path("m")).resolved_learning_rate() == 1e-5


def test_steps_come_from_steps_epochs_or_the_small_models_default() -> None:
    assert PretrainConfig(steps=7).num_steps(1000) == 7
    assert PretrainConfig(epochs=2, batch_size=4, accumulate=2).num_steps(17) == 2 * 3  # 5 micro-batches: 2, 2, 1
    assert PretrainConfig(model=Path("m"), batch_size=4).num_steps(17) == 5
    assert PretrainConfig().num_steps(17) == PretrainConfig.SMALL_STEPS
    assert PretrainConfig(epochs=0.001).num_steps(17) == 1


def test_warm_up_is_a_tenth_up_to_the_papers_thousand() -> None:
    config = PretrainConfig()
    assert [config.num_warmup_steps(steps) for steps in (5, 100, 113_000)] == [0, 10, 1000]
    assert PretrainConfig(warmup_steps=3).num_warmup_steps(5) == 3


def test_only_what_cannot_change_the_outcome_may_differ_in_a_resumed_run() -> None:
    assert PretrainConfig(workers=3, save_steps=2).settings() == PretrainConfig().settings()
    assert PretrainConfig(seed=1).settings() != PretrainConfig().settings()
    assert FinetuneConfig(data=DATA).settings()["data"] == "qa.json"


def test_the_global_batch_is_filled_whatever_the_number_of_ranks() -> None:
    config = PretrainConfig(model=Path("m"), batch_size=8, global_batch=64)
    assert config.filling(2) == "global batch 64 = 8 samples x 2 ranks x 4 micro-batches"
    assert config.filling(8) == "global batch 64 = 8 samples x 8 ranks x 1 micro-batch"
    assert [config.micro_batches(ranks) for ranks in (1, 2, 4, 8)] == [8, 4, 2, 1]
    assert {config.resolved_learning_rate(ranks) for ranks in (1, 2, 4, 8)} == {6.25e-5}
    assert {config.num_steps(1000, ranks) for ranks in (1, 2, 4, 8)} == {16}
    assert PretrainConfig(batch_size=1).filling() == "global batch 1 = 1 sample x 1 rank x 1 micro-batch"
    assert PretrainConfig(batch_size=4, accumulate=3).step_samples(2) == 24


def test_a_global_batch_that_cannot_be_filled_names_the_nearest() -> None:
    config = PretrainConfig(batch_size=8, global_batch=100)
    with pytest.raises(UsageError, match="--global-batch 100: not a multiple of 8 samples x 3 ranks") as caught:
        config.micro_batches(3)
    assert "96 or 120" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        PretrainConfig(batch_size=8, global_batch=5).micro_batches(3)
    assert "nearest are 24;" in caught.value.hint
    with pytest.raises(UsageError, match="--global-batch 64 and --accumulate 2: give one of them"):
        PretrainConfig(global_batch=64, accumulate=2)


def test_a_run_may_go_on_with_other_ranks_but_not_with_another_global_batch() -> None:
    settings = PretrainConfig(batch_size=8, global_batch=64).settings(2)
    assert PretrainConfig(batch_size=4, global_batch=64).settings(8) == settings
    assert PretrainConfig(batch_size=16, accumulate=4).settings() == settings
    assert PretrainConfig(batch_size=8, accumulate=2).settings(2) != settings


def test_an_unknown_reporter_or_one_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from cope_cli.train.loop import reporting

    with pytest.raises(UsageError, match="--report-to mlflow: expected none, tensorboard or wandb"):
        PretrainConfig(report_to="mlflow")
    monkeypatch.setattr(reporting, "find_spec", lambda name: None)
    reporting.check_reporter("none")
    for name in ("tensorboard", "wandb"):
        with pytest.raises(UsageError, match=f"the package {name} is not installed") as caught:
            reporting.check_reporter(name)
        assert f"pip install {name}" in caught.value.hint
    monkeypatch.setattr(reporting, "find_spec", lambda name: name == "tensorboardX" or None)
    reporting.check_reporter("tensorboard")


def test_resolved_settings_have_one_form_and_survive_json() -> None:
    written = FinetuneConfig(data=DATA, keyframes="4,2:3", freeze=("projector", "llm", "llm"))
    settings = written.resolve().settings()
    assert (written.keyframes, written.freeze) == ("4,2:3", ("projector", "llm", "llm"))
    assert (settings["keyframes"], settings["freeze"]) == ("2:3,4:1", ["llm", "projector"])
    assert json.loads(json.dumps(settings)) == settings
