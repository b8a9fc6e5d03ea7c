"""Operations by arithmetic against operations counted while the real modules run."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cope_cli.evaluate.flops import (
    Shape,
    configurations,
    cost_table,
    length_table,
    saving_percent,
    shape_of,
    ttft_flops,
    visual_tokens,
)
from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig
from cope_cli.model.kv_cache import cache_option
from cope_cli.model.sizes.flops import (
    delta_encoder_flops,
    kv_bytes_per_token,
    prefill_flops,
    projector_flops,
    vision_flops,
)
from cope_cli.model.sizes.geometry import GEOMETRIES, build_geometry, delta_config

TINY = GEOMETRIES["tiny"]


def counted(run) -> int:
    """Count what runs; attention by its own two products, which PyTorch counts in full, causal or not."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def tiny():
    return build_geometry(TINY, dtype=torch.float32)


def test_vision_encoder_and_projector(tiny) -> None:
    rgb = torch.zeros((3, 112, 112, 3), dtype=torch.uint8)
    assert counted(lambda: tiny.vision_tokens(rgb)) == 3 * vision_flops(TINY)
    tokens = torch.zeros((3, 196, 96))
    assert counted(lambda: tiny.pooled_tokens(tokens)) == 3 * projector_flops(TINY, 196)


@pytest.mark.parametrize(
    "config",
    [
        DeltaEncoderConfig(),
        DeltaEncoderConfig.preset("small"),
        DeltaEncoderConfig.preset("small", patch_px=8, grid_px=64, num_motion_tokens=2, out_width=40),
        DeltaEncoderConfig.preset("small", patch_px=32, grid_px=96, depth=1),
    ],
    ids=["paper", "small", "stride 8", "stride 32"],
)
def test_delta_encoder(config: DeltaEncoderConfig) -> None:
    encoder, side = DeltaEncoder(config).eval(), config.grid_px
    motion = torch.zeros((2, 2, side, side), dtype=torch.int16)
    residual = torch.zeros((2, side, side, 3), dtype=torch.int16)
    size = torch.ones((2, 2), dtype=torch.int32)
    assert counted(lambda: encoder(motion, residual, size)) == 2 * delta_encoder_flops(config)


def test_prefill_and_decode(tiny) -> None:
    """The counter takes all L * L pairs of causal attention; ours are the L * (L + 1) / 2 that there are."""
    language_model, length = tiny.base.model.language_model, 37
    keep = cache_option(tiny.new_cache())

    def prefill() -> None:
        output = language_model(inputs_embeds=torch.zeros((1, length, 128)), **keep)
        tiny.base.lm_head(output.last_hidden_state[:, -1:])

    unseen = length * (length - 1) // 2
    assert counted(prefill) == prefill_flops(TINY, length) + TINY.num_layers * 4 * unseen * TINY.width


@pytest.mark.parametrize(("name", "computed", "in_full"), [("0.5b", 87.5, 87.4), ("7b", 85.9, 85.8)])
def test_savings_at_one_keyframe_without_text(name: str, computed: float, in_full: float) -> None:
    geometry, baseline, k1 = GEOMETRIES[name], shape_of(8, 8), shape_of(8, 1)
    assert (baseline, k1) == (Shape(num_rgb=64, num_p=0), Shape(num_rgb=8, num_p=56))
    assert round(saving_percent(geometry, k1, baseline), 1) == computed
    config = delta_config(geometry)
    more = delta_encoder_flops(config, are_queries_last=False) - delta_encoder_flops(config)
    ours, theirs = ttft_flops(geometry, k1).total, ttft_flops(geometry, baseline).total
    assert round(100 * (1 - (ours + k1.num_p * more) / theirs), 1) == in_full


def test_the_parts_add_up_and_text_counts() -> None:
    shape = Shape(num_rgb=2, num_p=3, num_text=50)
    flops = ttft_flops(TINY, shape)
    assert flops.total == flops.vision + flops.projector + flops.delta_encoder + flops.prefill
    assert visual_tokens(TINY, shape) == 2 * 56 + 3 * 10
    assert flops.prefill == prefill_flops(TINY, 142 + 50)
    assert ttft_flops(TINY, dataclasses.replace(shape, num_p=0)).delta_encoder == 0


def test_key_value_cache_by_hand() -> None:
    assert kv_bytes_per_token(GEOMETRIES["7b"]) == 28 * 2 * 4 * 128 * 2 == 57_344
    assert kv_bytes_per_token(GEOMETRIES["0.5b"]) == 24 * 2 * 2 * 64 * 2 == 12_288
    assert kv_bytes_per_token(GEOMETRIES["72b"]) == 80 * 2 * 8 * 128 * 2 == 327_680
    row = next(row for row in cost_table([GEOMETRIES["7b"]]) if row.configuration == "K = 1")
    assert (row.visual_tokens, row.kv_bytes) == (2240, 2240 * 57_344)


def test_configurations_are_the_papers_and_down_sampling() -> None:
    tokens = {name: visual_tokens(GEOMETRIES["7b"], shape) for name, shape in configurations().items()}
    assert tokens == {"64 RGB frames": 13_440, "K = 1": 2240, "K = 2": 3840, "K = 4": 7040, "8 RGB frames": 1680}


def test_the_longest_video_by_context_and_by_memory() -> None:
    rows = length_table([GEOMETRIES["7b"], GEOMETRIES["72b"]])
    (million,) = [row for row in rows if row.limit_size == 1_000_000]
    assert million.geometry == "any"
    assert million.hours[1] == pytest.approx(1e6 / 280 * 8 / 3600)  # about 8 hours, the paper's Fig. 4b
    assert million.hours[8] == pytest.approx(1e6 / 210 / 3600)
    left = {(row.geometry, row.limit_size): row.tokens for row in rows if row.limit == "GPU"}
    assert left["7b", 24_000_000_000] == (24_000_000_000 - 2 * 8_030_348_832) // 57_344
    assert left["72b", 141_000_000_000] == 0  # 146 GB of weights
