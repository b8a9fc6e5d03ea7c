"""Muon: what its step is, which parameters it is for, and that its state survives a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cope_cli.errors import UsageError
from cope_cli.train.finetune.config import FinetuneConfig
from cope_cli.train.loop.muon import MuonAdamW, is_hidden_matrix, orthogonalised
from recipes.cope_tiny.model import build_tiny_videolm


@pytest.mark.parametrize("shape", [(32, 32), (64, 16), (16, 64)])
def test_orthogonalised_keeps_directions_and_levels_their_lengths(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalised(matrix) @ right.T
    lengths = found.diagonal()
    assert float(lengths.min()) > 0.3 and float(lengths.max()) < 1.3
    assert float((found - torch.diag(lengths)).abs().max()) < 1e-3


def _parameters() -> tuple[nn.Parameter, nn.Parameter]:
    torch.manual_seed(1)
    return nn.Parameter(torch.randn(24, 16)), nn.Parameter(torch.randn(16))


def _groups(matrix: nn.Parameter, vector: nn.Parameter) -> list[dict[str, object]]:
    return [{"params": [vector], "lr": 0.01, "muon": False}, {"params": [matrix], "lr": 0.01, "muon": True}]


def _step(optimizer: MuonAdamW, matrix: nn.Parameter, vector: nn.Parameter, target: torch.Tensor) -> float:
    loss = (vector @ (matrix.T @ matrix) - target).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_a_step_of_a_matrix_is_about_as_long_as_one_of_adamw() -> None:
    matrix, vector = _parameters()
    before = matrix.detach().clone()
    matrix.grad = torch.randn(24, 16)
    MuonAdamW(_groups(matrix, vector), lr=0.01).step()
    rms = float((matrix.detach() - before).square().mean().sqrt())
    assert 0.2 < rms / 0.01 < 1


def test_a_matrix_that_nothing_goes_through_stays_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, vector = _parameters()
    before = matrix.detach().clone()
    matrix.grad = torch.zeros_like(matrix)
    optimizer = MuonAdamW(_groups(matrix, vector), lr=0.01)
    monkeypatch.setattr("cope_cli.train.loop.muon.orthogonalised", None)  # whoever calls it fails
    optimizer.step()
    assert torch.equal(matrix, before)
    matrix.grad = torch.ones_like(matrix)
    with pytest.raises(TypeError):
        optimizer.step()


def test_it_learns_and_goes_on_from_its_state_as_if_never_stopped() -> None:
    target = torch.linspace(-1, 1, 16)
    matrix, vector = _parameters()
    optimizer = MuonAdamW(_groups(matrix, vector), lr=0.01)
    losses = [_step(optimizer, matrix, vector, target) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    again = [nn.Parameter(parameter.detach().clone()) for parameter in (matrix, vector)]
    resumed = MuonAdamW(_groups(*again), lr=0.01)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        assert _step(optimizer, matrix, vector, target) == _step(resumed, *again, target)
    assert torch.equal(matrix, again[0]) and torch.equal(vector, again[1])


def test_it_is_for_matrices_between_layers() -> None:
    model, _ = build_tiny_videolm(["left"], delta_encoder=True)
    chosen = {name for name, parameter in model.named_parameters() if is_hidden_matrix(name, parameter)}
    assert "base.model.language_model.layers.0.self_attn.q_proj.weight" in chosen
    assert "base.model.multi_modal_projector.linear_1.weight" in chosen
    assert "delta_encoder.motion_branch.transformer.layers.0.query.weight" in chosen
    ends = ("embed_tokens", "lm_head", "image_newline", "queries", "positions", "bias", "norm", "conv")
    assert not [name for name in chosen if any(end in name for end in ends)]


def test_not_with_sharded_weights(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="Muon needs whole matrices"):
        FinetuneConfig(data=tmp_path / "questions.json", optimizer="muon", fsdp=True)
    with pytest.raises(UsageError, match="--optimizer lion: expected adamw or muon"):
        FinetuneConfig(data=tmp_path / "questions.json", optimizer="lion")
