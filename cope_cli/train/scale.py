"""What both training stages cost at a given scale, from the numbers of a geometry alone: disk, GPU memory, time.

Everything is arithmetic on the sizes of model and data, but for what a compressed picture or tensor takes on disk:
that is the mean over a cache that is named, and without one it is not known; the size before compression stands for it.

Memory and operations of finetuning are those of `costs`. Of a pre-training step, with b = 2 under bfloat16, else 4:

```
weights       4 per parameter of vision tower, Delta-encoder and alignment modules
gradients     4, optimiser 8, bf16 copies 2 per parameter of the last two
vision        forward only, for a micro-batch's two frames a pair: b (4 w + m) per patch, one layer at a time
Delta         per pair, `costs.delta_encoder_values`
alignment     per pair and module, like a branch of the Delta-encoder over M patches and its K tokens
operations    vision once for two frames, Delta-encoder and alignment three times: forward, and backward twice that
```

Under FSDP each of N devices keeps 1 / N of weights, gradients, averages and bf16 copies; the one layer that is gathered
at a time is not counted. Checkpointing takes a third more operations: the forward pass once more. Adapters (LoRA) leave
the language model's and the vision tower's weights frozen, in bfloat16 as most published checkpoints store them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cope_cli.cache.store import Cache
from cope_cli.codec.gop import gop_spans, slots_of
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import UsageError
from cope_cli.model.alignment import Alignment, AlignmentConfig
from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig
from cope_cli.model.sizes.flops import alignment_flops, delta_encoder_flops, vision_flops
from cope_cli.model.sizes.geometry import Geometry, delta_config, find_geometry
from cope_cli.model.token_plan import plan_tokens
from cope_cli.train.costs import (
    SampleSize,
    Training,
    delta_encoder_values,
    step_flops,
    step_memory,
)
from cope_cli.train.disk import DataScale, DiskRow, disk_rows


@dataclass(frozen=True, kw_only=True)
class StageScale:
    """How one stage is run.

    Attributes:
        num_devices: GPUs.
        batch_size: samples per GPU and micro-batch.
        global_batch: samples of a step.
        num_steps: steps.
    """

    num_devices: int
    batch_size: int
    global_batch: int
    num_steps: int

    def __post_init__(self) -> None:
        if min(self.num_devices, self.batch_size, self.global_batch, self.num_steps) < 1:
            raise UsageError(f"numbers of GPUs, samples and steps must be at least 1, found {self}")
        if self.global_batch % (self.num_devices * self.batch_size):
            raise UsageError(
                f"a global batch of {self.global_batch} cannot be filled by {self.num_devices} GPUs with "
                f"{self.batch_size} samples each",
                "Choose a multiple.",
            )

    @classmethod
    def parse(cls, flag: str, text: str) -> StageScale:
        """Read ``64x1:128:10900``: GPUs x samples of each : global batch : steps.

        Raises:
            UsageError: it is not of that form, or cannot be.
        """
        found = re.fullmatch(r"(\d+)x(\d+):(\d+):(\d+)", text)
        if found is None:
            raise UsageError(f"{flag} {text}: expected GPUSxBATCH:GLOBAL:STEPS, such as 64x1:128:10900")
        devices, batch, whole, steps = map(int, found.groups())
        return cls(num_devices=devices, batch_size=batch, global_batch=whole, num_steps=steps)

    @property
    def accumulate(self) -> int:
        """Micro-batches of a step."""
        return self.global_batch // (self.num_devices * self.batch_size)


PAPER_PRETRAIN = StageScale(num_devices=16, batch_size=16, global_batch=1024, num_steps=113_000)
PAPER_FINETUNE = StageScale(num_devices=64, batch_size=1, global_batch=128, num_steps=10_900)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A model, its data and both stages.

    Attributes:
        geometry: a name of `geometry.GEOMETRIES`.
        num_videos: videos of the data set.
        video_seconds: their mean length.
        fusion_frames: fusion window s, at 30 FPS.
        grid_px: the primitives' grid.
        keyframes: K, of finetuning.
        num_text_tokens: of a sample, question, answer and time instruction.
        num_answer_tokens: of these, learned.
        pretrain: the first stage.
        finetune: the second.
        lora: rank of the adapters in the rows with adapters.
        tflops: what one GPU reaches in training, 10^12 operations a second; None leaves out times.
    """

    geometry: str = "7b"
    num_videos: int = 1
    video_seconds: float = 64.0
    fusion_frames: int = 30
    grid_px: int = 224
    keyframes: int = 4
    num_text_tokens: int = 300
    num_answer_tokens: int = 60
    pretrain: StageScale = PAPER_PRETRAIN
    finetune: StageScale = PAPER_FINETUNE
    lora: int = 64
    tflops: float | None = None

    def __post_init__(self) -> None:
        find_geometry(self.geometry)
        ExtractConfig(fusion_frames=self.fusion_frames, grid_px=self.grid_px)
        if self.num_videos < 1 or self.video_seconds <= 0:
            raise UsageError(f"--videos {self.num_videos}, --seconds {self.video_seconds}: expected more than 0")


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """What one stage costs.

    Attributes:
        stage: pretrain or finetune.
        how: what the memory is of: whole copies, sharded, checkpointed.
        memory_bytes: of one GPU.
        fixed_bytes: of these weights, gradients, averages, bf16 copies.
        num_devices: GPUs.
        accumulate: micro-batches of a step.
        step_flops: operations of a step, all GPUs.
        step_seconds: at the speed that was named.
        hours: of the stage.
        device_hours: times the GPUs.
    """

    stage: str
    how: str
    memory_bytes: int
    fixed_bytes: int
    num_devices: int
    accumulate: int
    step_flops: float
    step_seconds: float | None
    hours: float | None
    device_hours: float | None


@dataclass(frozen=True, kw_only=True)
class ScaleReport:
    """All figures; `sample` is what one finetuning sample is made of."""

    scale: Scale
    sample: SampleSize
    disk: list[DiskRow]
    stages: list[StageRow]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def scale_report(scale: Scale, cache: Cache | None = None) -> ScaleReport:
    """Work out what both stages cost.

    Args:
        scale: model, data and stages.
        cache: where compressed sizes are measured; None, or one without entries, leaves sizes before compression.
    """
    geometry = find_geometry(scale.geometry)
    delta = delta_config(geometry, scale.grid_px)
    encode = EncodeConfig()
    num_frames = max(1, round(scale.video_seconds * encode.fps))
    is_iframe = [frame % encode.gop_frames == 0 for frame in range(num_frames)]
    slots = slots_of(gop_spans(is_iframe), scale.fusion_frames)
    plan = plan_tokens([slot.gop for slot in slots], keyframes_per_gop=scale.keyframes, costs=geometry.costs)
    sample = SampleSize(
        num_rgb=plan.num_rgb_slots,
        num_p=plan.num_delta_slots,
        num_tokens=plan.num_tokens + scale.num_text_tokens,
        num_answer_tokens=scale.num_answer_tokens,
    )
    num_iframes = sum(slot.is_iframe for slot in slots)
    data = DataScale(
        num_videos=scale.num_videos,
        video_seconds=scale.video_seconds,
        fusion_frames=scale.fusion_frames,
        grid_px=scale.grid_px,
        keyframes=scale.keyframes,
        num_iframe_slots=num_iframes,
        num_p_slots=len(slots) - num_iframes,
        num_keyframes=plan.num_rgb_slots,
    )
    disk = disk_rows(data, geometry, cache)
    stages = [_pretrain(scale, geometry, delta), *_finetune(scale, geometry, delta, sample)]
    return ScaleReport(scale=scale, sample=sample, disk=disk, stages=stages)


def pretrain_memory(
    geometry: Geometry, delta: DeltaEncoderConfig, alignment: AlignmentConfig, *, batch_size: int, bf16: bool = True
) -> tuple[int, int]:
    """Return the bytes of a pre-training step on one GPU: what does not depend on the batch, and what does.

    Args:
        geometry: of the vision tower.
        delta: the Delta-encoder's sizes.
        alignment: the alignment modules' sizes.
        batch_size: pairs of a micro-batch.
        bf16: compute in bfloat16.
    """
    b = 2 if bf16 else 4
    num_trained = num_pretrain_parameters(delta, alignment)
    fixed = 4 * (geometry.num_vision_parameters + num_trained) + (12 + (2 if bf16 else 0)) * num_trained
    vision = 2 * geometry.num_patches * (4 * geometry.vision_width + geometry.vision_mlp_width)
    values = vision + delta_encoder_values(delta) + alignment_values(alignment, geometry.num_patches, delta)
    return fixed, batch_size * b * values


def num_pretrain_parameters(delta: DeltaEncoderConfig, alignment: AlignmentConfig) -> int:
    """Return the parameters that pre-training trains: Delta-encoder and alignment modules."""
    with torch.device("meta"):
        modules = DeltaEncoder(delta), Alignment(alignment, token_width=delta.out_width)
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def alignment_values(config: AlignmentConfig, patches: int, delta: DeltaEncoderConfig) -> int:
    """Return the numbers that both alignment modules keep for the backward pass per pair, as in a Delta branch."""
    w, total = config.width, 0
    layer = (9 + 2 * config.mlp_ratio) * w
    for queries in (delta.num_motion_tokens, delta.num_residual_tokens):
        tokens = patches + queries
        total += (config.depth - 1) * tokens * layer + 4 * w * tokens + (layer - 4 * w) * patches
        total += 2 * w * patches  # the last norm's input, and its output
        if w != delta.out_width:
            total += tokens * delta.out_width
    return total


def pretrain_flops(geometry: Geometry, delta: DeltaEncoderConfig, alignment: AlignmentConfig) -> int:
    """Return the operations of one pair, forward and backward."""
    trained = delta_encoder_flops(delta) + alignment_flops(alignment, geometry.num_patches, delta)
    return 2 * vision_flops(geometry) + 3 * trained


def _pretrain(scale: Scale, geometry: Geometry, delta: DeltaEncoderConfig) -> StageRow:
    alignment, stage = AlignmentConfig(), scale.pretrain
    fixed, batch = pretrain_memory(geometry, delta, alignment, batch_size=stage.batch_size)
    flops = float(stage.global_batch * pretrain_flops(geometry, delta, alignment))
    return _row(scale, stage, "pretrain", "a copy on each GPU", fixed, batch, flops)


def _finetune(scale: Scale, geometry: Geometry, delta: DeltaEncoderConfig, sample: SampleSize) -> Iterable[StageRow]:
    """Yield the rows of finetuning: whole copies, sharded if there is more than one GPU, adapters."""
    stage = scale.finetune
    whole, lora = (_training(stage, geometry, delta, lora=rank) for rank in (None, scale.lora))
    mean = {name: float(value) for name, value in asdict(sample).items()}
    for training, name in ((whole, ""), (lora, f"--lora {scale.lora}")):
        memory = step_memory(training, sample)
        fixed = memory.total - memory.activations
        flops = step_flops(training, mean) * stage.num_devices
        yield _row(scale, stage, "finetune", name or "a copy on each GPU", fixed, memory.activations, flops)
        is_sharded = stage.num_devices > 1 and not name
        if is_sharded:
            fixed //= stage.num_devices
            yield _row(scale, stage, "finetune", "--fsdp", fixed, memory.activations, flops)
        checkpointed = memory.activations - memory.language + memory.language_checkpointed
        how = f"{'--fsdp' if is_sharded else name} --activation-checkpointing".strip()
        yield _row(scale, stage, "finetune", how, fixed, checkpointed, flops * 4 / 3)


def _training(stage: StageScale, geometry: Geometry, delta: DeltaEncoderConfig, *, lora: int | None) -> Training:
    """Return a finetuning in bfloat16, in full or with adapters of rank `lora`."""
    with torch.device("meta"):
        num_delta = sum(parameter.numel() for parameter in DeltaEncoder(delta).parameters())
    num, num_vision = geometry.num_parameters + num_delta, geometry.num_vision_parameters
    num_trained, halved = num - num_vision, 0
    if lora is not None:
        w, kv, m = geometry.width, geometry.kv_width, geometry.mlp_width
        num_adapters = geometry.num_layers * lora * (4 * w + 2 * (w + kv) + 3 * (w + m))
        embeddings = geometry.vocab_size * w * (1 if geometry.is_tied else 2)
        # Norms, embedding and a tied output layer stay in float32; norms are too few to count.
        language = geometry.num_layers * geometry.num_layer_parameters
        num_trained += num_adapters - language - embeddings - w  # w: the last norm
        halved = language + num_vision + (0 if geometry.is_tied else embeddings // 2)
        num += num_adapters
    return Training(
        geometry=geometry,
        delta=delta,
        num_parameters=num,
        num_trained=num_trained,
        batch_size=stage.batch_size,
        accumulate=stage.accumulate,
        bf16=True,
        num_frozen_bf16=halved,
        train_language=lora is None,
    )


def _row(scale: Scale, stage: StageScale, name: str, how: str, fixed: int, batch: int, flops: float) -> StageRow:
    seconds = None if scale.tflops is None else flops / (stage.num_devices * scale.tflops * 1e12)
    hours = None if seconds is None else seconds * stage.num_steps / 3600
    return StageRow(
        stage=name,
        how=how,
        memory_bytes=fixed + batch,
        fixed_bytes=fixed,
        num_devices=stage.num_devices,
        accumulate=stage.accumulate,
        step_flops=flops,
        step_seconds=seconds,
        hours=hours,
        device_hours=None if hours is None else hours * stage.num_devices,
    )
