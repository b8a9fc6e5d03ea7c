"""`cope train costs`: its arithmetic against modules, and against published figures."""

from __future__ import annotations

import json

import pytest
import torch
import train_setup
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from cope_cli.cache.store import Cache
from cope_cli.cli.main import app
from cope_cli.data.collate import PairBatch
from cope_cli.errors import UsageError
from cope_cli.model.alignment import AlignmentConfig
from cope_cli.model.lora import LoraSizes, add_lora
from cope_cli.model.sizes.geometry import GEOMETRIES, build_geometry, delta_config
from cope_cli.train.finetune.trainable import frozen_product_weights, num_parameters, set_trainable
from cope_cli.train.pretrain.stage import SMALL_ALIGNMENT, PretrainModel
from cope_cli.train.scale import (
    PAPER_FINETUNE,
    PAPER_PRETRAIN,
    Scale,
    StageScale,
    _training,
    num_pretrain_parameters,
    pretrain_flops,
    pretrain_memory,
    scale_report,
)

TINY = GEOMETRIES["tiny"]
GRID_PX = 112


def _model(alignment: AlignmentConfig) -> PretrainModel:
    from cope_cli.model.alignment import Alignment

    vision = build_geometry(TINY, dtype=torch.float32, grid_px=GRID_PX)
    encoder = vision.delta_encoder
    assert encoder is not None
    modules = Alignment(alignment, token_width=encoder.config.out_width)
    return PretrainModel(vision, encoder.requires_grad_(True), modules).train()


def _pairs(num: int) -> PairBatch:
    side = TINY.image_px
    return PairBatch(
        rgb=torch.zeros((num, 2, side, side, 3), dtype=torch.uint8),
        motion=torch.zeros((num, 2, GRID_PX, GRID_PX), dtype=torch.int16),
        residual=torch.zeros((num, GRID_PX, GRID_PX, 3), dtype=torch.int16),
        frame_size_px=torch.full((num, 2), 64, dtype=torch.int32),
    )


@pytest.mark.parametrize("alignment", [SMALL_ALIGNMENT, AlignmentConfig(width=48, depth=3, heads=3)])
def test_operations_and_memory_of_a_pretraining_step_are_those_of_the_modules(alignment: AlignmentConfig) -> None:
    model, num = _model(alignment), 3
    delta = model.delta_encoder.config
    assert num_pretrain_parameters(delta, alignment) == num_parameters(model, trained_only=True)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        output = model(_pairs(num))
        assert not isinstance(output, torch.Tensor)
        output.loss.backward()
    assert num * pretrain_flops(TINY, delta, alignment) == pytest.approx(counter.get_total_flops(), rel=0.05)
    fixed, batch = pretrain_memory(TINY, delta, alignment, batch_size=num, bf16=False)
    trained = num_parameters(model, trained_only=True)
    assert fixed == 4 * (TINY.num_vision_parameters + trained) + 12 * trained
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept.clear()
        model(_pairs(num))  # as trained: attention keeps no scores
    measured = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)
    forward_only = 2 * TINY.num_patches * (4 * TINY.vision_width + TINY.vision_mlp_width) * 4 * num
    assert batch - forward_only == pytest.approx(measured, rel=0.15)


def test_the_papers_scale_fills_its_batches_and_needs_sharding() -> None:
    assert (PAPER_PRETRAIN.accumulate, PAPER_FINETUNE.accumulate) == (4, 2)
    report = scale_report(Scale(num_videos=1000, video_seconds=64, tflops=400))
    assert (report.sample.num_rgb, report.sample.num_p) == (32, 32)
    assert report.sample.num_tokens == 8 * 880 + 300  # the paper's tokens per GOP at K = 4
    pretrain, whole, sharded, checkpointed, lora, _ = report.stages
    assert whole.memory_bytes > 16 * 7.6e9 > sharded.fixed_bytes
    assert sharded.memory_bytes > checkpointed.memory_bytes
    assert lora.fixed_bytes < 0.2 * whole.fixed_bytes
    assert pretrain.hours is not None and pretrain.device_hours == pytest.approx(16 * pretrain.hours)
    assert {row.is_measured for row in report.disk} == {False}
    tokens = report.disk[-1]
    assert tokens.unit_bytes == 27 * 27 * 1152 * 2
    assert tokens.total_bytes == 1000 * 64 * tokens.unit_bytes


def test_videos_are_cut_into_the_slots_that_extraction_makes() -> None:
    report = scale_report(Scale(geometry="tiny", video_seconds=9.5, keyframes=1))
    assert (report.sample.num_rgb, report.sample.num_p) == (2, 8)  # 8 slots, and those of a GOP of 45 frames


@pytest.mark.parametrize("text", ["64", "64x1:128", "axb:c:d", "64x1:100:10", "0x1:1:1"])
def test_a_stage_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        StageScale.parse("--finetune", text)


def test_the_command_measures_sizes_in_the_cache(train_cache: Cache) -> None:
    options = [
        "--videos",
        "10",
        "--seconds",
        "16",
        "--geometry",
        "tiny",
        "--grid",
        str(train_setup.GRID_PX),
        "--tflops",
        "1",
    ]
    command = ["train", "costs", "--cache", str(train_cache.root), *options]
    report = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    measured = {row["part"]: row["is_measured"] for row in report["disk"]}
    assert measured["encoded video"] and measured["primitives"] and not measured["or vision tokens"]
    assert [row["stage"] for row in report["stages"]] == ["pretrain", *["finetune"] * 5]
    text = CliRunner().invoke(app, command).stdout
    assert "mean of this cache" in text and "GPU hours" in text


@pytest.mark.parametrize("is_whole", [True, False])
def test_what_learns_is_counted_as_it_is_trained(is_whole: bool) -> None:
    rank = 4
    model = build_geometry(TINY, dtype=torch.float32, grid_px=GRID_PX)
    if not is_whole:
        add_lora(model, LoraSizes(rank=rank, alpha=8))
    set_trainable(model, train_vision=False, lora=not is_whole)
    counted = _training(PAPER_FINETUNE, TINY, delta_config(TINY, GRID_PX), lora=None if is_whole else rank)
    assert counted.num_parameters == num_parameters(model)
    assert counted.num_trained == num_parameters(model, trained_only=True)
    if not is_whole:
        halved = sum(parameter.numel() for parameter in frozen_product_weights(model))
        assert counted.num_frozen_bf16 == pytest.approx(halved, rel=0.05)


def test_one_gpu_shards_nothing() -> None:
    one = StageScale(num_devices=1, batch_size=1, global_batch=1, num_steps=1)
    ways = [row.how for row in scale_report(Scale(geometry="tiny", finetune=one)).stages]
    assert not any("--fsdp" in way for way in ways) and any("--lora 64" in way for way in ways)
