"""Gradients reach every part that is meant to learn, and no other."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from train_setup import GRID_PX

from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.model.videolm import VideoLM
from cope_cli.train.finetune.config import Part
from cope_cli.train.finetune.trainable import num_parameters, part_of, set_trainable

PARTS = tuple(Part)

#: Every choice of parts; with all frozen and the vision tower too, nothing would learn: the configuration refuses that.
CASES = [(freeze, vision) for count in range(4) for freeze in combinations(PARTS, count) for vision in (False, True)]
CASES.remove((PARTS, False))


@pytest.fixture(scope="module")
def model() -> VideoLM:
    return build_small_videolm(grid_px=GRID_PX)[0].train()


def _reached(model: VideoLM, batch: VideoLMBatch) -> set[str]:
    model.zero_grad(set_to_none=True)
    model(batch).loss.backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


@pytest.mark.parametrize(("freeze", "train_vision"), CASES)
def test_gradients_reach_what_is_meant_to_learn_and_nothing_else(
    model: VideoLM, batch: VideoLMBatch, freeze: tuple[str, ...], train_vision: bool
) -> None:
    set_trainable(model, train_vision=train_vision, freeze=freeze)
    reached = _reached(model, batch)
    read = {id(parameter) for parameter in model.vision_parameters()}
    expected: set[str] = set()
    for name, parameter in model.named_parameters():
        part = part_of(name)
        learns: Any = train_vision and id(parameter) in read if part == "vision" else part not in freeze
        # A key's bias shifts all scores of a softmax alike: its gradient is zero but for rounding.
        if learns and not name.endswith("k_proj.bias"):
            expected.add(name)
    assert {name for name in reached if not name.endswith("k_proj.bias")} == expected
    assert all(part_of(name) in {part_of(other) for other in expected} for name in reached)
    trained = {id(p): p.numel() for p in model.parameters() if p.requires_grad}
    assert num_parameters(model, trained_only=True) == sum(trained.values())


def test_every_parameter_belongs_to_a_part(model: VideoLM) -> None:
    assert {part_of(name) for name, _ in model.named_parameters()} == {*PARTS, "vision"}
    with pytest.raises(ValueError, match="of no part"):
        part_of("alignment.x")
