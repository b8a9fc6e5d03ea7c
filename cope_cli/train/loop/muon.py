"""Muon for hidden weight matrices, AdamW for everything else: fewer steps for small models from fresh weights.

Muon (Jordan et al. 2024) replaces the step of a matrix by the nearest matrix whose directions are all of one length, so
that rare ones are learned as fast as common ones. Here its length follows the rate as that of AdamW's steps does (Liu
et al. 2025, arXiv 2502.16982), so that both share one rate. PyTorch's own works in bfloat16, which processors without
it emulate at a tenth of their speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

#: Coefficients of the polynomial whose iteration sends all singular values to about 1, and the number of iterations.
_COEFFICIENTS, _NUM_ITERATIONS = (3.4445, -4.7750, 2.0315), 5
_MOMENTUM = 0.95
_STEP_RMS = 0.4  # root mean square of a step over the rate; AdamW's is 0.2 to 0.4
#: Parts of names of matrices that look up, or stand for tokens.
_ENDS = ("embed_tokens", "lm_head", "queries", "positions", "newline")


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix that maps one layer's values to the next one's."""
    return parameter.ndim == 2 and not any(part in name for part in _ENDS)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return about U V^T of a matrix U S V^T: (N, M) -> (N, M), by Newton-Schulz iteration.

    Singular values come out between about 0.7 and 1.2. Computed in bfloat16 on a GPU, else in the matrix's own type.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if is_tall else matrix
    if found.is_cuda:
        found = found.bfloat16()
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(_NUM_ITERATIONS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return (found.T if is_tall else found).to(matrix.dtype)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for groups of hidden matrices, AdamW for the others.

    Args:
        groups: parameter groups; `"muon": True` marks those of hidden matrices.
        lr: rate of groups that name none.
        options: of AdamW.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], lr: float, **options: Any) -> None:
        super().__init__([dict(group) for group in groups], {"lr": lr, "muon": False, "weight_decay": 0.0})
        others = [group for group in self.param_groups if not group["muon"]]
        self._adamw = torch.optim.AdamW(others, lr=lr, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step; `closure` is there for Trainer, which has none."""
        # Anew each time: a state that was loaded comes in other lists.
        self._adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
        self._adamw.state = self.state
        self._adamw.step()
        for group in self.param_groups:
            if group["muon"]:
                for parameter in group["params"]:
                    self._step_matrix(parameter, group["lr"], group["weight_decay"])

    def _step_matrix(self, parameter: nn.Parameter, rate: float, weight_decay: float) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(parameter.grad, 1 - _MOMENTUM)
        parameter.mul_(1 - rate * weight_decay)
        if not momentum.any():  # a part that nothing goes through: `--delta off`
            return
        update = orthogonalised(parameter.grad.lerp(momentum, _MOMENTUM))
        parameter.add_(update, alpha=-rate * _STEP_RMS * max(parameter.shape) ** 0.5)
