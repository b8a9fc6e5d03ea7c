"""The Delta-encoder: sizes, normalisation, positions, and its transformer against slow references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cope_cli.errors import UsageError
from cope_cli.model.delta_encoder import (
    DeltaEncoder,
    DeltaEncoderConfig,
    MotionPatches,
    ResidualPatches,
    normalise_motion,
    positions_for,
)
from cope_cli.model.resnet import BasicBlock
from cope_cli.model.transformer import PreNormLayer, PreNormTransformer

SIZES: dict[str, Any] = {"width": 12, "depth": 2, "heads": 3, "out_width": 10, "trunk_width": 4}
SIZE_PX = torch.tensor([[512, 384]])


def build(**changes: Any) -> DeltaEncoder:
    torch.manual_seed(0)
    return DeltaEncoder(DeltaEncoderConfig(**{"grid_px": 64, **SIZES, **changes})).eval()


def primitives(num: int, side: int = 64, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    motion = torch.randint(-80, 81, (num, 2, side, side), dtype=torch.int16, generator=generator)
    residual = torch.randint(-255, 256, (num, side, side, 3), dtype=torch.int16, generator=generator)
    return motion, residual, SIZE_PX.expand(num, 2)


@pytest.mark.parametrize(("name", "parameters"), [("paper", 14_128_652), ("wide", 132_985_280), ("small", 727_472)])
def test_parameter_counts_of_the_presets(name: str, parameters: int) -> None:
    with torch.device("meta"):
        encoder = DeltaEncoder(DeltaEncoderConfig.preset(name))
    assert encoder.num_parameters() == parameters


def test_the_paper_preset_keeps_the_papers_bound_and_output() -> None:
    config = DeltaEncoderConfig.preset("paper")
    with torch.device("meta"):
        assert DeltaEncoder(config).num_parameters() < 15_000_000
    assert (config.num_tokens, config.out_width, config.patches_per_side) == (8, 1152, 14)


@pytest.mark.parametrize("read", [slice(-4, None), slice(0, 5)])
def test_the_last_layer_for_the_read_tokens_only_equals_the_full_computation(read: slice) -> None:
    torch.manual_seed(0)
    transformer = PreNormTransformer(width=12, depth=3, heads=3, mlp_ratio=2).double()
    tokens = torch.randn(2, 9, 12, dtype=torch.float64)
    full = transformer(tokens, slice(None))
    torch.testing.assert_close(transformer(tokens, read), full[:, read], rtol=0, atol=1e-12)


def test_a_layer_equals_attention_written_out() -> None:
    torch.manual_seed(0)
    layer = PreNormLayer(width=6, heads=2, mlp_ratio=2).double()
    tokens = torch.randn(1, 5, 6, dtype=torch.float64)
    normed = layer.attention_norm(tokens)[0]
    query = layer.query(normed)
    key, value = layer.key_value(normed)[:, :6], layer.key_value(normed)[:, 6:]
    attended = torch.zeros(5, 6, dtype=torch.float64)
    for head in range(2):
        own = slice(3 * head, 3 * head + 3)
        for row in range(5):
            weights = torch.softmax(torch.stack([query[row, own] @ key[t, own] for t in range(5)]) / 3**0.5, 0)
            attended[row, own] = sum(weights[t] * value[t, own] for t in range(5))
    expected = tokens[0] + layer.attention_out(attended)
    expected = expected + layer.mlp(layer.mlp_norm(expected))
    torch.testing.assert_close(layer(tokens, slice(None))[0], expected, rtol=0, atol=1e-12)


def test_fixed_normalisation_is_a_fraction_of_the_side_and_keeps_the_sign() -> None:
    motion = torch.zeros(1, 2, 4, 4, dtype=torch.int16)
    motion[0, 0], motion[0, 1] = 256, -96  # +128 px of 512, -48 px of 384
    normalised = normalise_motion(motion, SIZE_PX)
    assert normalised.dtype == torch.float32
    assert torch.equal(normalised[0, 0], torch.full((4, 4), 0.5))
    assert torch.equal(normalised[0, 1], torch.full((4, 4), -0.25))


def test_fixed_normalisation_clips_and_follows_its_maximum() -> None:
    motion = torch.full((1, 2, 2, 2), 900, dtype=torch.int16)
    assert torch.equal(normalise_motion(motion, SIZE_PX), torch.ones(1, 2, 2, 2))
    assert torch.equal(normalise_motion(-motion, SIZE_PX), -torch.ones(1, 2, 2, 2))
    widest = normalise_motion(motion, SIZE_PX, max_displacement=1.0)
    torch.testing.assert_close(widest[0, 0, 0, 0], torch.tensor(450 / 512))


def test_fixed_normalisation_does_not_depend_on_the_streams_size() -> None:
    motion, _, size = primitives(1)
    assert torch.equal(normalise_motion(motion, size), normalise_motion(2 * motion, 2 * size))


def test_per_frame_normalisation_spans_each_field() -> None:
    motion = torch.tensor([[[[-4, 0]], [[4, 12]]], [[[0, 1]], [[0, 0]]]], dtype=torch.int16)
    normalised = normalise_motion(motion, SIZE_PX.expand(2, 2), normalisation="per_frame")
    assert normalised.tolist() == [[[[-1, -0.5]], [[0, 1]]], [[[-1, 1]], [[-1, -1]]]]


@pytest.mark.parametrize("normalisation", ["fixed", "per_frame"])
def test_a_still_frame_becomes_zero(normalisation: Any) -> None:
    still = torch.zeros(2, 2, 4, 4, dtype=torch.int16)
    normalised = normalise_motion(still, SIZE_PX.expand(2, 2), normalisation=normalisation)
    assert torch.equal(normalised, torch.zeros(2, 2, 4, 4))


def test_the_encoder_uses_its_configured_normalisation() -> None:
    inputs = primitives(1)
    fixed, per_frame = build(), build(motion_normalisation="per_frame")
    faster = (2 * inputs[0], *inputs[1:])
    assert torch.equal(per_frame(*inputs), per_frame(*faster))
    assert not torch.allclose(fixed(*inputs), fixed(*faster))


def test_a_motion_patch_reaches_its_own_cell_only() -> None:
    patches = MotionPatches(build().config)
    motion = torch.zeros(1, 2, 64, 64)
    changed = motion.clone()
    changed[0, 1, 16:32, 48:64] = 1.0  # row 1, column 3
    differs = (patches(motion) != patches(changed)).any(-1)[0]
    assert differs.nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize(("patch_px", "side"), [(8, 8), (16, 4), (32, 2)])
def test_the_trunk_gives_the_grid_of_the_motion_patches(patch_px: int, side: int) -> None:
    config = build(patch_px=patch_px).config
    assert ResidualPatches(config)(torch.zeros(1, 3, 64, 64)).shape == (1, side, side, 12)
    assert MotionPatches(config)(torch.zeros(1, 2, 64, 64)).shape == (1, side, side, 12)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_without_its_inner_part_is_the_rectified_skip(stride: int) -> None:
    block = BasicBlock(4, 4 * stride, stride)
    torch.nn.init.zeros_(block.norm2.weight)
    features = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(features), block.skip(features).relu())
    assert isinstance(block.skip, torch.nn.Identity) == (stride == 1)


def test_the_residual_enters_as_a_fraction_without_a_shift() -> None:
    encoder = build()
    seen: list[Tensor] = []
    encoder.residual_branch.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    motion, residual, size = primitives(1)
    encoder(motion, residual, size)
    torch.testing.assert_close(seen[0], (residual.float() / 255).permute(0, 3, 1, 2))


def test_motion_tokens_come_first_and_the_branches_are_separate() -> None:
    encoder = build(num_motion_tokens=3, num_residual_tokens=2)
    motion, residual, size = primitives(2)
    tokens = encoder(motion, residual, size)
    assert tokens.shape == (2, 5, 10)
    other_residual = encoder(motion, primitives(2, seed=2)[1], size)
    assert torch.equal(other_residual[:, :3], tokens[:, :3])
    assert not torch.allclose(other_residual[:, 3:], tokens[:, 3:])


def test_slots_do_not_mix() -> None:
    encoder, (motion, residual, size) = build(), primitives(3)
    together = encoder(motion, residual, size)
    for i in range(3):
        alone = encoder(motion[i : i + 1], residual[i : i + 1], size[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


def test_positions_tell_where_a_motion_is() -> None:
    encoder, (motion, residual, size) = build(), primitives(1)
    swapped = motion.roll(16, dims=-1)  # the same patches, one column further
    assert not torch.allclose(encoder(swapped, residual, size)[:, :4], encoder(motion, residual, size)[:, :4])
    torch.nn.init.zeros_(encoder.motion_branch.positions)
    torch.testing.assert_close(encoder(swapped, residual, size)[:, :4], encoder(motion, residual, size)[:, :4])


def test_fresh_queries_look_at_different_parts_of_the_grid() -> None:
    torch.manual_seed(0)
    encoder = DeltaEncoder(DeltaEncoderConfig.preset("tiny", grid_px=128)).eval()
    still = torch.zeros(1, 2, 128, 128, dtype=torch.int16), torch.zeros(1, 128, 128, 3, dtype=torch.int16)
    for quarter, (row, column) in enumerate([(0, 0), (0, 64), (64, 0), (64, 64)]):
        motion, residual = still[0].clone(), still[1].clone()
        motion[:, :, row + 16 : row + 48, column + 16 : column + 48] = 20
        residual[:, row + 16 : row + 48, column + 16 : column + 48] = 100
        change = (encoder(motion, residual, SIZE_PX) - encoder(*still, SIZE_PX)).norm(dim=-1).view(2, 4)
        assert change.argmax(1).tolist() == [quarter, quarter]


@pytest.mark.parametrize("num_queries", [1, 2, 3, 6])
def test_queries_of_any_number_begin_apart(num_queries: int) -> None:
    queries = build(num_motion_tokens=num_queries).motion_branch.queries
    assert torch.pdist(queries).gt(0.1).all()


def test_positions_are_interpolated_for_another_grid() -> None:
    rows = torch.arange(4.0)[:, None, None].expand(4, 4, 3).contiguous()
    assert positions_for(rows, 4) is rows
    finer = positions_for(rows, 8)
    assert finer.shape == (8, 8, 3)
    assert torch.allclose(finer, finer[:, :1, :1].expand(8, 8, 3), atol=1e-6)  # still the same along a row
    assert (finer[1:, 0, 0] > finer[:-1, 0, 0]).all()
    torch.testing.assert_close(positions_for(torch.full((4, 4, 2), 0.3), 6), torch.full((6, 6, 2), 0.3))


def test_another_grid_than_the_configured_one_works() -> None:
    assert build()(*primitives(2, side=96)).shape == (2, 8, 10)


def test_bfloat16_stays_close_to_float32() -> None:
    encoder, inputs = build(), primitives(2)
    exact = encoder(*inputs)
    rounded = encoder.bfloat16()(*inputs)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 0.05 * exact.norm()


def test_no_slots_give_no_tokens() -> None:
    assert build()(*primitives(0)).shape == (0, 8, 10)


def test_every_parameter_gets_a_gradient() -> None:
    encoder = build()
    encoder(*primitives(2)).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("which", [0, 1, 2])
def test_shapes_that_do_not_belong_together_are_refused(which: int) -> None:
    inputs = list(primitives(2))
    inputs[which] = inputs[which][:, :1]
    with pytest.raises(ValueError, match="has shape"):
        build()(*inputs)


@pytest.mark.parametrize(
    "change",
    [
        {"grid_px": 100},
        {"patch_px": 12},
        {"heads": 5},
        {"depth": 0},
        {"num_motion_tokens": 0},
        {"motion_normalisation": "none"},
        {"max_displacement": 0.0},
    ],
)
def test_impossible_configurations_name_their_field(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        DeltaEncoderConfig(**{**SIZES, **change})


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="paper, wide, small"):
        DeltaEncoderConfig.preset("huge")


def test_a_configuration_survives_its_dictionary() -> None:
    config = DeltaEncoderConfig.preset("small", grid_px=384, motion_normalisation="per_frame")
    assert DeltaEncoderConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=r"missing fields \['width'\], unknown fields \['breadth'\]"):
        values = config.to_dict()
        DeltaEncoderConfig.from_dict({**{k: v for k, v in values.items() if k != "width"}, "breadth": 3})
