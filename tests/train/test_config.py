from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cope_cli.errors import UsageError
from cope_cli.train.config import FinetuneConfig, PretrainConfig

DATA = Path("qa.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"accumulate": 0}, "--accumulate 0"),
        ({"learning_rate": 0.0}, "--lr 0.0"),
        ({"warmup_steps": -1}, "--warmup -1"),
        ({"epochs": 0.0}, "--epochs 0.0"),
        ({"save_steps": 0}, "--save-steps 0"),
        ({"workers": -1}, "--workers -1"),
        ({"steps": 3, "epochs": 1.0}, "--steps 3 and --epochs 1.0"),
        ({"grid_px": 100}, "--grid 100"),
        ({"fusion_frames": 0}, "--fusion 0"),
        ({"keyframes": 0}, "--keyframes 0"),
        ({"max_gops": 0}, "--max-gops 0"),
        ({"keyframes": "1:2,x"}, "--keyframes 1:2,x"),
        ({"freeze": ("vision",)}, "--freeze vision: expected one of llm, projector, delta-encoder"),
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
    # A setting has one form, however it was written, and survives JSON.
    written = FinetuneConfig(data=DATA, keyframes="4,2:3", freeze=("projector", "llm", "llm"))
    settings = written.settings()
    assert (settings["keyframes"], settings["freeze"]) == ("2:3,4:1", ["llm", "projector"])
    assert json.loads(json.dumps(settings)) == settings
