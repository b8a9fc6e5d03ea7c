"""The vision stage of cope-tiny: trains its vision tower on still pictures of the rendered world.

Published models include a trained vision tower; cope-tiny does not. Here its tower learns to describe every patch:
whether a thing is there, its colour and shape, the ninth of the picture it lies in, the offset of its centre from the
patch, and its size; a few colours of the patch itself, so that backgrounds leave a trace too; and the position of the
patch. Linear heads read this from the same tokens that the projector reads. The heads are dropped afterwards; the
result is a model folder for `cope train pretrain --model`.

Every picture is drawn when it is needed and seen once. Trained on the slots of a thousand clips, the tower memorised
the textures of 250 things and recognised new shapes no better than chance. Slots of clips serve for the evaluation at
the end.

The tokens of a published tower encode their positions. Pre-training needs that: the alignment modules have no
positions of their own (Eq. 8 and 9), so they cannot predict a patch whose token does not encode where it is.

The losses keep tokens and heads small, so that a token describes its patch and nothing else. Otherwise random weights
mix the whole picture into half of its numbers: more than half of all patches changed when one thing moved, and pre-
training, which predicts tokens, learned to predict that first.

Legend: B frames, M patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cope_cli.cache.store import Cache
from cope_cli.data.collate import split_bad
from cope_cli.data.datasets import BadSample
from cope_cli.errors import DataError, UsageError
from cope_cli.model.checkpoint.description import load_tensors, write_tensors
from cope_cli.model.checkpoint.folders import load_videolm, save_videolm, vision_tower_sha256
from cope_cli.model.checkpoint.hub import model_folder
from cope_cli.model.videolm import VideoLM
from cope_cli.runs import RunFolder
from cope_cli.train.finetune.trainable import set_trainable
from cope_cli.train.loop.batches import ErrorsAsSamples
from cope_cli.train.loop.ranks import Ranks
from cope_cli.train.loop.setup import Base, OnBegin, OnStep, add_frames, begin_run, open_index, open_run, record
from cope_cli.train.loop.sharding import load_full_state_dict
from cope_cli.types import OnItem, OnText
from cope_cli.world.config import Split
from cope_cli.world.themes import SHAPES
from cope_cli.world.words import CELLS, vocabulary
from cope_cli.world.write import read_settings
from recipes.cope_tiny.config import VisionConfig
from recipes.cope_tiny.model import build_tiny_videolm
from recipes.cope_tiny.vision_data import (
    COLOUR_NAMES,
    PictureDataset,
    VisionBatch,
    VisionDataset,
    collate_frames,
    read_clips,
)

HEADS_FILE = "vision_heads.safetensors"
#: Side of the small picture of a patch that the heads predict: a few colours, not its texture.
_PIXELS_PER_SIDE = 4
#: Weights in the loss other than 1. Shapes take longest to learn: an outline covers several patches.
_WEIGHTS = {"shape": 2.0, "pixels": 0.5, "tokens": 0.05, "heads": 1e-3}
#: Half-waves over the picture's side whose sines and cosines encode the position of a patch, on either axis.
_HALF_WAVES = (1, 2, 4)


class PatchHeads(nn.Module):
    """One linear map from the token of a patch to all of its targets.

    Args:
        width: D.
        num_colours: number of colours.
        num_shapes: number of shapes.
    """

    def __init__(self, width: int, num_colours: int, num_shapes: int) -> None:
        super().__init__()
        self.sizes = (1, 1, num_colours, num_shapes, len(CELLS), 3, 3 * _PIXELS_PER_SIDE**2, 4 * len(_HALF_WAVES))
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Map (B, M, D) to seen, centre, colour, shape, cell, place, pixels and position, each (B, M, size)."""
        parts: tuple[Tensor, ...] = self.linear(tokens).split(self.sizes, dim=-1)
        return parts


class VisionModel(nn.Module):
    """A VideoLM whose vision tower is trained, and the heads that read its tokens."""

    def __init__(self, videolm: VideoLM, heads: PatchHeads) -> None:
        super().__init__()
        self.videolm = videolm
        self.heads = heads
        set_trainable(videolm, train_vision=True, freeze=("llm", "projector", "delta-encoder"))

    def forward(self, batch: VisionBatch) -> dict[str, Tensor]:
        """Return the loss and its parts, as means over the batch."""
        targets: Any = batch.targets
        tokens = self.videolm.vision_tokens(batch.rgb).float()
        seen, centre, colour, shape, cell, place, pixels, position = self.heads(tokens)
        is_seen = targets.is_seen
        losses = {
            "seen": functional.binary_cross_entropy_with_logits(seen[..., 0], is_seen.float()),
            "centre": functional.binary_cross_entropy_with_logits(centre[..., 0], targets.is_centre.float()),
            "colour": _mean(functional.cross_entropy(colour[is_seen], targets.colour[is_seen], reduction="none")),
            "shape": _mean(functional.cross_entropy(shape[is_seen], targets.shape[is_seen], reduction="none")),
            "cell": _mean(functional.cross_entropy(cell[is_seen], targets.cell[is_seen], reduction="none")),
            "place": _mean((place[is_seen] - targets.place[is_seen]).abs()),
            "tokens": tokens.square().mean(),
            "heads": self.heads.linear.weight.square().sum(),
            "pixels": (pixels - _small_pictures(batch.rgb, tokens.shape[1])).square().mean(),
            "position": (position - _patch_positions(tokens.shape[1], tokens.device)).square().mean(),
        }
        values = {
            "colour_right": _mean((colour.argmax(-1) == targets.colour)[is_seen].float()),
            "shape_right": _mean((shape.argmax(-1) == targets.shape)[is_seen].float()),
            "cell_right": _mean((cell.argmax(-1) == targets.cell)[is_seen].float()),
            "place_error_patches": _mean((place - targets.place)[is_seen][:, :2].norm(dim=-1)),
            "count_right": ((centre[..., 0] > 0).sum(1) == targets.is_centre.sum(1)).float().mean(),
        }
        total = torch.stack([_WEIGHTS.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
        return {"loss": total, **{f"{name}_loss": loss for name, loss in losses.items()}, **values}


def _mean(values: Tensor) -> Tensor:
    """Return the mean, or 0 if there are no values; both have a gradient."""
    return values.sum() / max(values.numel(), 1)


def _small_pictures(rgb: Tensor, num_patches: int) -> Tensor:
    """Return each patch's picture at a small size, (B, M, 3 * 4 * 4), in [-1, 1]."""
    side = round(num_patches**0.5)
    planes = rgb.permute(0, 3, 1, 2).float() / 127.5 - 1
    small = functional.adaptive_avg_pool2d(planes, side * _PIXELS_PER_SIDE)
    return functional.pixel_unshuffle(small, _PIXELS_PER_SIDE).flatten(2).transpose(1, 2)


def _patch_positions(num_patches: int, device: torch.device) -> Tensor:
    """Return where each patch lies, (M, 12): sines and cosines of its row and of its column."""
    side = round(num_patches**0.5)
    middles = (torch.arange(side, device=device) + 0.5) / side
    angles = torch.pi * middles[:, None] * torch.tensor(_HALF_WAVES, device=device)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class VisionRecipe:
    """Loss and checkpoints of the vision stage.

    Attributes:
        tokenizer: saved with the model.
        fusion_frames: the fusion window s of the clips' primitives.
    """

    tokenizer: Any
    fusion_frames: int

    def loss(
        self, model: nn.Module, batch: VisionBatch, labels: Tensor, num_items: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the batch's share of the loss and of its parts."""
        share = labels.ne(-100).sum() / num_items
        values = {name: value * share for name, value in model(batch).items()}
        return values.pop("loss"), values

    def learning_rate_of(self, name: str) -> float | None:
        """Return None: every trained parameter has the learning rate of the run."""
        return None

    def save(self, model: nn.Module, folder: Path, state_dict: Mapping[str, Tensor] | None) -> None:
        """Write the model and the heads."""
        assert isinstance(model, VisionModel)
        inner = None
        if state_dict is not None:
            inner = {n.removeprefix("videolm."): t for n, t in state_dict.items() if n.startswith("videolm.")}
        save_videolm(model.videolm, self.tokenizer, folder, fusion_frames=self.fusion_frames, state_dict=inner)
        write_tensors(folder / HEADS_FILE, model.heads.state_dict())

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read the model and the heads."""
        assert isinstance(model, VisionModel)
        load_full_state_dict(model.videolm, load_videolm(folder).model.state_dict())
        load_tensors(model.heads, folder / HEADS_FILE)
        model.heads.train()


@dataclass(frozen=True, kw_only=True)
class VisionCollator:
    """Collates frames; each is one item of a step."""

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        """Return a collated batch.

        Raises:
            DataError: none of the samples could be read.
        """
        errors = [sample for sample in samples if isinstance(sample, DataError)]
        good, bad = split_bad([sample for sample in samples if not isinstance(sample, DataError)])
        if not good:
            raise errors[0] if errors else DataError(f"{bad[0].where}: {bad[0].message}")
        return {
            "batch": collate_frames(good),
            "labels": torch.zeros(len(good), dtype=torch.int64),
            "bad": bad,
            "errors": errors,
        }


def train_vision(
    cache: Cache,
    config: VisionConfig,
    run_folder: Path,
    *,
    resume: bool = False,
    on_begin: OnBegin = lambda record: None,
    on_progress: OnStep = lambda step, total, metrics: None,
    on_frames: OnItem = lambda entry, done, total: None,
    on_note: OnText = lambda text: None,
) -> Path:
    """Train cope-tiny's vision tower from fresh weights, or continue from another run of this stage.

    Args:
        cache: holds the primitives of clips to evaluate on; missing RGB slots are added first.
        config: the settings.
        run_folder: folder of the run.
        resume: continue an unfinished run.
        on_begin: called once with the contents of config.json.
        on_progress: called with (step, steps in all, logged values).
        on_frames: called with (entry, seconds done, seconds in all) while RGB slots are added.
        on_note: called with messages for the user.

    Returns:
        The folder of the model.

    Raises:
        UsageError: the run folder is taken, the run cannot be resumed, or the model is no result of this stage.
        PathNotFoundError, DataError, EntryNotFoundError, CacheCorruptError: records or cache cannot be used.
    """
    from cope_cli.train.loop.arguments import training_arguments
    from cope_cli.train.loop.engine import run_training

    ranks, run = open_run("vision", run_folder, config, resume=resume)
    model, base = _start(config)
    rate = config.learning_rate or config.SMALL_LEARNING_RATE
    arguments = training_arguments(config, run_folder, config.num_pictures, rate, ranks.count, model)
    dataset, frames, bad = _data(cache, config, base.model, ranks, on_frames)
    described = record(config, base, frames.entry_names, ranks, learning_rate=rate, steps=arguments.max_steps)
    described |= {"delta_encoder": "none yet", "colours": COLOUR_NAMES, "shapes": SHAPES}
    ranks.from_main(lambda: begin_run(run, described, bad, config, on_begin), "while the run begins")

    run_training(
        recipe=VisionRecipe(tokenizer=base.tokenizer, fusion_frames=config.fusion_frames),
        model=model,
        dataset=ErrorsAsSamples(dataset),
        collator=VisionCollator(),
        arguments=arguments,
        run=run,
        on_progress=on_progress,
        ranks=ranks,
        config=config,
        on_trained=partial(_conclude, run, model, frames, config.eval_frames, on_note),
    )
    return run.result


def _data(
    cache: Cache, config: VisionConfig, videolm: VideoLM, ranks: Ranks, on_frames: OnItem
) -> tuple[PictureDataset, VisionDataset, list[BadSample]]:
    """Return the pictures to train on, the slots to evaluate on, and the samples to skip; adds missing RGB slots."""
    index, bad = open_index(cache, config)
    sizes = {"size_px": videolm.vision_size_px, "patches_per_side": videolm.patches_per_side}
    worlds = [read_settings(folder) for folder in config.data]
    worlds = [replace(world, split=Split.TRAIN, seed=world.seed + config.seed) for world in worlds]
    dataset = PictureDataset(worlds, config.num_pictures, **sizes)
    clips = {path: clip for folder in config.data for path, clip in read_clips(folder).items()}
    frames = VisionDataset(clips, index, skip_bad=config.skip_bad > 0, **sizes)
    add_frames(
        cache,
        index.entries,
        frames.entry_names,
        frames.rgb_slots,
        size_px=videolm.vision_size_px,
        skip_bad=config.skip_bad > 0,
        on_frames=on_frames,
        ranks=ranks,
    )
    return dataset, frames, bad


def _conclude(run: RunFolder, model: VisionModel, frames: VisionDataset, max_frames: int, on_note: OnText) -> None:
    """Evaluate the trained model on slots of clips."""
    found = evaluate(model, frames, max_frames)
    run.add_to_config({"slots_of_clips": found})
    on_note("slots of clips: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))


def _start(config: VisionConfig) -> tuple[VisionModel, Base]:
    """Return cope-tiny with fresh weights, or the model and heads that `--model` names."""
    if config.model is None:
        videolm, tokenizer = build_tiny_videolm(vocabulary(), seed=config.seed)
        model, described = _model(videolm, config.seed), f"cope-tiny, fresh weights, seed {config.seed}"
    else:
        folder = model_folder(config.model)
        if not (folder / HEADS_FILE).is_file():
            hint = "Name a run of this stage, or omit --model to start from fresh weights."
            raise UsageError(f"--model {config.model}: {folder / HEADS_FILE} expected, no such file", hint)
        loaded = load_videolm(folder, dtype=torch.float32)
        model, tokenizer, described = _model(loaded.model, config.seed), loaded.tokenizer, str(folder)
        load_tensors(model.heads, folder / HEADS_FILE)
    sha256 = vision_tower_sha256(model.videolm)
    base = Base(model=model.videolm, tokenizer=tokenizer, vision_sha256=sha256, fusion_frames=None, described=described)
    return model.train(), base


def _model(videolm: VideoLM, seed: int) -> VisionModel:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed + 1)
        width = videolm.base.config.vision_config.hidden_size
        return VisionModel(videolm, PatchHeads(width, len(COLOUR_NAMES), len(SHAPES)))


@torch.no_grad()
def evaluate(model: VisionModel, dataset: VisionDataset, max_frames: int, batch_size: int = 32) -> dict[str, float]:
    """Return losses and shares of right answers over evenly spaced frames of a dataset."""
    num = min(max_frames, len(dataset))
    wanted = [number * len(dataset) // num for number in range(num)]
    model.eval()
    totals: dict[str, float] = {}
    counted = 0
    for start in range(0, num, batch_size):
        good, _ = split_bad([dataset[number] for number in wanted[start : start + batch_size]])
        if good:
            counted += len(good)
            for name, value in model(collate_frames(good).to(model.videolm.device)).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(good)
    return {name: value / counted for name, value in totals.items()}
