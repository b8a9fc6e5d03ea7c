"""A model with random weights that answers questions about videos under a stopwatch, part by part.

Frames and primitives may be made up or real. Prompt, time instruction and every step are those of `cope ask`, but for
the tokenizer, the small model's: it splits numbers into digits, as Qwen2's does, and has single tokens for the
prompt's words.

```
frames -> vision -> projector (and pooling) -+
primitives ------> delta_encoder ------------+-> prefill -> 1st token -> decode -> last token
|<------------------------- TTFT -------------------------->|
```
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cope_cli.ask.models import find_device
from cope_cli.data.collate import collate
from cope_cli.data.prompt import PromptBuilder, Timeline
from cope_cli.data.samples import Sample, Visuals
from cope_cli.errors import UsageError
from cope_cli.evaluate.config import TtftConfig
from cope_cli.evaluate.machine import PeakMemory, free_bytes
from cope_cli.evaluate.tokens import SECONDS_PER_GOP, SLOTS_PER_GOP
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.kv_cache import cache_option
from cope_cli.model.placement import torch_dtype
from cope_cli.model.sizes.geometry import Geometry, build_geometry, find_geometry
from cope_cli.model.sizes.small import build_small_tokenizer
from cope_cli.options import Dtype

PARTS = ("vision", "projector", "delta_encoder", "prefill", "decode")
TTFT_PARTS = PARTS[:-1]
QUESTION = "What happened?"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one configuration.

    Attributes:
        seconds: by part, `PARTS`.
        cpu_seconds: the same of all threads.
        peak_bytes: the most memory, weights included; None where the system does not tell.
        growth_bytes: of it what the run itself took.
    """

    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    peak_bytes: int | None
    growth_bytes: int | None

    @property
    def ttft_seconds(self) -> float:
        """Up to the first token."""
        return sum(self.seconds[part] for part in TTFT_PARTS)

    @property
    def ttft_cpu_seconds(self) -> float:
        """CPU time up to the first token."""
        return sum(self.cpu_seconds[part] for part in TTFT_PARTS)

    @property
    def total_seconds(self) -> float:
        """Up to the last token."""
        return sum(self.seconds.values())


@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """Adds up the seconds spent in named parts; waits for the device before it looks at the clock.

    Attributes:
        device: whose work is timed.
        seconds: by part.
        cpu_seconds: by part, of all threads.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    cpu_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time a block as part of `part`."""
        start, start_cpu = self._now()
        yield
        end, end_cpu = self._now()
        self.seconds[part] += end - start
        self.cpu_seconds[part] += end_cpu - start_cpu

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()


class Runner:
    """A model of a geometry that is asked questions under a stopwatch.

    Args:
        config: geometry, type, device.

    Raises:
        UsageError: there is no such device, or the weights do not fit it.
    """

    def __init__(self, config: TtftConfig) -> None:
        self.config = config
        self.device = find_device(config.device)
        self.dtype = Dtype(config.dtype)
        if config.dtype == Dtype.AUTO:
            self.dtype = Dtype.BFLOAT16 if self.device.type == "cuda" else Dtype.FLOAT32
        self.geometry = find_geometry(config.geometry)
        dtype = torch_dtype(self.dtype) or torch.float32
        _check_memory(self.geometry, dtype, self.device, shares_layers=config.shares_layers)
        self.model = build_geometry(
            self.geometry,
            dtype=dtype,
            device=self.device,
            grid_px=config.grid_px,
            shares_layers=config.shares_layers,
        )
        self.tokenizer = build_small_tokenizer()

    @property
    def weights(self) -> str:
        """What the weights are."""
        return "random, one layer's in all," if self.config.shares_layers else "random"

    def builder(self, keyframes_per_gop: int) -> PromptBuilder:
        """Return what builds the prompts of this model."""
        return PromptBuilder(
            tokenizer=self.tokenizer,
            costs=self.model.token_costs,
            context_tokens=self.model.context_tokens,
            keyframes_per_gop=keyframes_per_gop,
        )

    def made_sample(self, num_gops: int, keyframes: int, *, slots_per_gop: int = SLOTS_PER_GOP) -> Sample:
        """Make up a video of GOPs of `slots_per_gop` slots in 8 seconds each: random frames and primitives."""
        num_slots, window = num_gops * slots_per_gop, SECONDS_PER_GOP / slots_per_gop
        timeline = Timeline(
            slot_gop=tuple(slot // slots_per_gop for slot in range(num_slots)),
            slot_seconds=tuple(slot * window for slot in range(num_slots)),
            window_seconds=window,
            video_seconds=num_slots * window,
        )
        prompt = self.builder(keyframes).ask(QUESTION, timeline, max_new_tokens=self.config.max_new_tokens)
        num_rgb, num_p = prompt.plan.num_rgb_slots, prompt.plan.num_delta_slots
        random, side, grid = np.random.default_rng(0), self.geometry.image_px, self.config.grid_px
        visuals = Visuals(
            rgb=random.integers(0, 256, (num_rgb, side, side, 3), np.uint8),
            motion=random.integers(-64, 65, (num_p, 2, grid, grid), np.int16),
            residual=random.integers(-64, 65, (num_p, grid, grid, 3), np.int16),
            frame_size_px=np.tile(np.array([682, 384], np.int32), (num_p, 1)),
        )
        return Sample(prompt=prompt, visuals=visuals)

    @torch.no_grad()
    def run(self, sample: Sample, num_new_tokens: int | None = None) -> Run:
        """Answer once, from frames and primitives in the computer's memory to the last token."""
        batch = collate([sample], pad_id=self.tokenizer.pad_token_id, padding_side="left", with_labels=False)
        watch, memory = Stopwatch(device=self.device), PeakMemory(self.device)
        with memory.watch():
            embeddings = self._embed(batch, watch)
            with watch("prefill"):
                cache = self.model.new_cache()
                token = self._step(embeddings, cache)
            del embeddings
            with watch("decode"):
                for _ in range((num_new_tokens or self.config.max_new_tokens) - 1):
                    token = self._step(self.model.base.get_input_embeddings()(token), cache)
            del cache
        return Run(
            seconds=watch.seconds,
            cpu_seconds=watch.cpu_seconds,
            peak_bytes=memory.peak_bytes,
            growth_bytes=memory.growth_bytes,
        )

    def _embed(self, batch: VideoLMBatch, watch: Stopwatch) -> Tensor:
        """Return the language model's inputs (1, L, D)."""
        model, rgb = self.model, []
        batch = batch.to(self.device)
        for chunk in model.chunks(batch.rgb):
            with watch("vision"):
                tokens = model.vision_tokens(chunk)
            with watch("projector"):
                rgb.append(model.pooled_tokens(tokens))
        delta = rgb[0].new_zeros((0, rgb[0].shape[-1]))
        if len(batch.motion):
            with watch("delta_encoder"):
                delta = model.delta_tokens(batch.motion, batch.residual, batch.frame_size_px)
        with watch("prefill"):
            return model.embed(batch, model.arranged(batch.token_kind, torch.cat(rgb), delta))

    def _step(self, embeddings: Tensor, cache: object) -> Tensor:
        """Run the language model on new positions, which the cache takes in; return the likeliest next token (1, 1)."""
        base = self.model.base
        output = base.model.language_model(inputs_embeds=embeddings, **cache_option(cache), use_cache=True)
        token: Tensor = base.lm_head(output.last_hidden_state[:, -1:]).argmax(-1)
        return token


def _check_memory(geometry: Geometry, dtype: torch.dtype, device: torch.device, *, shares_layers: bool) -> None:
    """Refuse a model that does not fit rather than be killed half-way."""
    num_shared = (geometry.num_layers - 1) * geometry.num_layer_parameters if shares_layers else 0
    needed, free = (geometry.num_parameters - num_shared) * dtype.itemsize, free_bytes(device)
    if free is not None and needed > free:
        raise UsageError(
            f"--geometry {geometry.name}: the weights take {needed / 1e9:.1f} GB as {dtype}, and {device} has "
            f"{free / 1e9:.1f} GB left",
            "Take --dtype bf16, --share-layers or a smaller geometry; the analytic tables need no weights.",
        )
