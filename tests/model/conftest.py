"""A VideoLM of a few thousand parameters, and batches for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig
from cope_cli.model.token_plan import PlannedSlot, TokenPlan
from cope_cli.model.videolm import VideoLM

VOCABULARY = 50
GRID_PX = 32

# One row of a batch: text before, slots ("I" as RGB, "P" as Delta-tokens), text after.
Row = tuple[Sequence[int], str, Sequence[int]]


def _tiny(*, seed: int = 0, with_delta: bool = True, vision_layers: int = 2, **config: Any) -> VideoLM:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    vision = SiglipVisionConfig(
        image_size=40,  # 5 x 5 patches, pooled to 3 x 3: an odd side, like SigLIP's 27 to 14
        patch_size=8,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=vision_layers,
        num_attention_heads=2,
        vision_use_head=True,
    )
    text = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rope_theta=10000.0,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        initializer_range=0.3,  # large enough that a random model's answer depends on its input
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = LlavaOnevisionForConditionalGeneration(
            LlavaOnevisionConfig(
                vision_config=vision, text_config=text, image_token_index=2, video_token_index=2, **config
            )
        )
        sizes = {"grid_px": GRID_PX, "width": 12, "depth": 2, "heads": 2, "out_width": 16, "trunk_width": 4}
        encoder = DeltaEncoder(DeltaEncoderConfig(num_motion_tokens=3, num_residual_tokens=2, **sizes))
        model = VideoLM(base, encoder if with_delta else None)
    base.generation_config.pad_token_id = 0
    return model.eval()


@pytest.fixture
def tiny() -> Callable[..., VideoLM]:
    return _tiny


@pytest.fixture
def model() -> VideoLM:
    return _tiny()


@pytest.fixture
def make_batch() -> Callable[..., VideoLMBatch]:
    def make(model: VideoLM, rows: Sequence[Row], *, seed: int = 0, pad: str = "left", **fields: Any) -> VideoLMBatch:
        """Build a batch with random frames and primitives; the text after the slots is the label."""
        lines = []
        for before, slots, after in rows:
            planned = tuple(PlannedSlot(slot=i, gop=0, is_rgb=kind == "I") for i, kind in enumerate(slots))
            plan = TokenPlan(slots=planned, costs=model.token_costs, num_gops_total=1, num_gops_used=1)
            kinds = plan.token_kinds()
            ids = [*before, *[-200] * len(kinds), *after]
            labels = [-100] * (len(before) + len(kinds)) + list(after)
            lines.append((ids, [0] * len(before) + kinds + [0] * len(after), [1] * len(ids), labels))
        length = max(len(ids) for ids, *_ in lines)
        fill = (0, 0, 0, -100)

        def padded(column: int) -> torch.Tensor:
            out = []
            for line in lines:
                rest = [fill[column]] * (length - len(line[column]))
                out.append(rest + line[column] if pad == "left" else line[column] + rest)
            return torch.tensor(out)

        shown = "".join(slots for _, slots, _ in rows)
        generator = torch.Generator().manual_seed(seed)
        num_p, size = shown.count("P"), model.vision_size_px
        values: dict[str, Any] = {
            "input_ids": padded(0),
            "token_kind": padded(1).to(torch.uint8),
            "attention_mask": padded(2),
            "labels": padded(3),
            "rgb": torch.randint(0, 256, (shown.count("I"), size, size, 3), dtype=torch.uint8, generator=generator),
            "motion": torch.randint(-60, 61, (num_p, 2, GRID_PX, GRID_PX), dtype=torch.int16, generator=generator),
            "residual": torch.randint(-255, 256, (num_p, GRID_PX, GRID_PX, 3), dtype=torch.int16, generator=generator),
            "frame_size_px": torch.tensor([[64, 48]] * num_p, dtype=torch.int32).reshape(num_p, 2),
        }
        return VideoLMBatch(**{**values, **fields})

    return make
