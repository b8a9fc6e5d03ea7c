"""The pre-training modules: where they start, what reaches what, and Eq. 10."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cope_cli.model.alignment import Alignment, AlignmentConfig, patch_loss


def build(*, width: int = 12, token_width: int = 8) -> Alignment:
    torch.manual_seed(0)
    return Alignment(AlignmentConfig(width=width, depth=2, heads=2, mlp_ratio=2), token_width=token_width)


def inputs(num: int = 3, num_patches: int = 5, width: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    reference = torch.randn(num, num_patches, width, generator=generator)
    return reference, torch.randn(num, 8, width, generator=generator)


def opened(alignment: Alignment) -> Alignment:
    """Give the zero-initialised projections some weight."""
    for updater in (alignment.theta_ref, alignment.theta_warped):
        torch.nn.init.normal_(updater.projection_out.weight)
    return alignment


@pytest.mark.parametrize("width", [8, 12])
def test_training_starts_at_copying_the_previous_frame(width: int) -> None:
    reference, delta = inputs()
    assert torch.equal(build(width=width)(reference, delta), reference)


def test_the_first_step_moves_the_output_and_later_steps_reach_the_delta_tokens() -> None:
    alignment, (reference, delta) = build(), inputs()
    delta.requires_grad_(True)
    patch_loss(alignment(reference, delta), torch.zeros_like(reference)).backward()
    assert alignment.theta_ref.projection_out.weight.grad.any()
    assert alignment.theta_warped.projection_out.weight.grad.any()
    opened(alignment).zero_grad()
    delta.grad = None
    patch_loss(alignment(reference, delta), torch.zeros_like(reference)).backward()
    assert delta.grad.any(-1).all()
    assert [n for n, p in alignment.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_motion_goes_to_theta_ref_and_residual_to_theta_warped() -> None:
    alignment, (reference, delta) = opened(build()), inputs()
    warped = alignment.theta_ref(reference, delta[:, :4])
    torch.testing.assert_close(alignment(reference, delta), alignment.theta_warped(warped, delta[:, 4:]))
    torch.nn.init.zeros_(alignment.theta_warped.projection_out.weight)
    other_residual = torch.cat([delta[:, :4], delta[:, 4:] + 1], dim=1)
    other_motion = torch.cat([delta[:, :4] + 1, delta[:, 4:]], dim=1)
    assert torch.equal(alignment(reference, other_residual), alignment(reference, delta))
    assert not torch.allclose(alignment(reference, other_motion), alignment(reference, delta))


def test_it_learns_a_change_that_only_the_delta_tokens_tell() -> None:
    torch.manual_seed(0)
    alignment, (reference, delta) = build(), inputs(num=16)
    target = reference + delta[:, :1] + delta[:, 4:5]
    optimiser = torch.optim.Adam(alignment.parameters(), lr=3e-3)
    copying = patch_loss(reference, target)
    for _ in range(80):
        optimiser.zero_grad()
        loss = patch_loss(alignment(reference, delta), target)
        loss.backward()
        optimiser.step()
    assert loss < 0.5 * copying


def test_patch_loss_is_equation_10() -> None:
    predicted, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    distances = [sum(float(p - t) ** 2 for p, t in zip(predicted[i, j], target[i, j], strict=True))
                 for i in range(2) for j in range(3)]  # fmt: skip
    assert float(patch_loss(predicted, target)) == pytest.approx(sum(distances) / 6)


def test_patch_loss_refuses_to_broadcast_or_to_average_nothing() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        patch_loss(torch.zeros(2, 3, 4), torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match="cannot be compared"):
        patch_loss(torch.zeros(0, 3, 4), torch.zeros(0, 3, 4))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        AlignmentConfig(width=10, heads=3)
