"""`cope train vision`: the vision tower of cope-tiny, from nothing, on still pictures of the rendered world.

Published models bring a vision tower that has seen the world. cope-tiny has none to start from, so its tower learns
here to say of every patch what stands in it: whether, which colour and shape, in which ninth of the picture, where its
centre is from the patch, how large it is; a few colours of the patch itself, so that backgrounds leave a trace too; and
where in the picture the patch lies. Linear heads read that from the very tokens that the projector reads. They are
dropped afterwards; the result is a model folder for `cope train pretrain --model`.

The pictures are drawn on the way, and none comes twice: from the slots of a thousand clips, twins all, the tower
learned the textures of 250 things by heart, and told new shapes no better than chance. Slots of clips are what it is
evaluated on at the end.

A published tower's tokens know their places by themselves. Pre-training needs that: the alignment modules have no
positions of their own (Eq. 8 and 9), and cannot say what comes to a patch that does not know where it lies.

Tokens and heads are kept small, so that a token says what it is asked and no more. Else half of its numbers would be
what random weights make of the whole picture: more than half of all patches changed when one thing moved, and
pre-training, which has to predict tokens, learned to predict that first.

Legend: B frames, M patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cope_cli.cache.store import Cache
from cope_cli.data.collate import split_bad
from cope_cli.errors import DataError, UsageError
from cope_cli.model.checkpoint.description import load_tensors, write_tensors
from cope_cli.model.checkpoint.folders import load_videolm, save_videolm, vision_tower_sha256
from cope_cli.model.checkpoint.hub import model_folder
from cope_cli.model.videolm import VideoLM
from cope_cli.runs import RunFolder
from cope_cli.train.finetune.trainable import set_trainable
from cope_cli.train.loop.batches import ErrorsAsSamples
from cope_cli.train.loop.ranks import join_ranks
from cope_cli.train.loop.setup import (
    Base,
    OnBegin,
    OnFrames,
    OnNote,
    OnProgress,
    add_frames,
    begin_run,
    open_index,
    record,
)
from cope_cli.train.loop.sharding import check_fsdp, load_full_state_dict
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
#: A patch's own picture is asked for at this side: a few colours, not its grain.
_PIXELS_PER_SIDE = 4
#: Weights in the loss where they are not 1. Shapes take longest: their outlines go over several patches.
_WEIGHTS = {"shape": 2.0, "pixels": 0.5, "tokens": 0.05, "heads": 1e-3}
#: Half-waves over the picture's side by whose sines and cosines a patch says where it lies, on either axis.
_HALF_WAVES = (1, 2, 4)


class PatchHeads(nn.Module):
    """One linear map from a patch's token to all that is asked about it.

    Args:
        width: D.
        num_colours: kinds of colours.
        num_shapes: kinds of shapes.
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
    """A VideoLM of which the vision tower learns, and the heads that read its tokens."""

    def __init__(self, videolm: VideoLM, heads: PatchHeads) -> None:
        super().__init__()
        self.videolm = videolm
        self.heads = heads
        set_trainable(videolm, train_vision=True, freeze=("llm", "projector", "delta-encoder"))

    def forward(self, batch: VisionBatch) -> dict[str, Tensor]:
        """Return the loss, and what it is made of, as means over the batch."""
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
    """Return the mean, 0 of nothing, with a gradient in either case."""
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
        """Return the batch's share of the loss, and of what it is made of."""
        share = labels.ne(-100).sum() / num_items
        values = {name: value * share for name, value in model(batch).items()}
        return values.pop("loss"), values

    def learning_rate_of(self, name: str) -> float | None:
        """Return None: all that is trained has the run's rate."""
        return None

    def save(self, model: nn.Module, folder: Path, state_dict: Mapping[str, Tensor] | None) -> None:
        """Write the model, and the heads beside it."""
        assert isinstance(model, VisionModel)
        inner = None
        if state_dict is not None:
            inner = {n.removeprefix("videolm."): t for n, t in state_dict.items() if n.startswith("videolm.")}
        save_videolm(model.videolm, self.tokenizer, folder, fusion_frames=self.fusion_frames, state_dict=inner)
        write_tensors(folder / HEADS_FILE, model.heads.state_dict())

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read both back."""
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
            DataError: not one of the samples could be read.
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
    on_progress: OnProgress = lambda step, total, metrics: None,
    on_frames: OnFrames = lambda entry, done, total: None,
    on_note: OnNote = lambda text: None,
) -> Path:
    """Train cope-tiny's vision tower, from nothing or from where another such run ended.

    Args:
        cache: holds the primitives of clips to evaluate on; missing RGB slots are added first.
        config: the settings.
        run_folder: where the run goes.
        resume: go on with an unfinished run.
        on_begin: called once with what config.json says.
        on_progress: called with (step, steps in all, logged values).
        on_frames: called with (entry, seconds done, seconds in all) while RGB slots are added.
        on_note: called with what a person should know.

    Returns:
        The folder of the model.

    Raises:
        UsageError: the run folder is taken, or the run there cannot be gone on with; or the model is of no such run.
        PathNotFoundError, DataError, EntryNotFoundError, CacheCorruptError: records or cache cannot be used.
    """
    from cope_cli.train.loop.arguments import training_arguments
    from cope_cli.train.loop.engine import run_training

    ranks = join_ranks(cpu=config.is_cpu, timeout_minutes=config.rank_timeout_minutes)
    check_fsdp(config, ranks)
    run = RunFolder(run_folder, "vision")
    settings = config.settings(ranks.count)
    ranks.from_main(lambda: run.check(settings, resume=resume), "while looking at the run's folder")
    model, base = _start(config)
    videolm = base.model
    index, bad = open_index(cache, config)
    sizes = {"size_px": videolm.vision_size_px, "patches_per_side": videolm.patches_per_side}
    worlds = [read_settings(folder) for folder in config.data]
    worlds = [replace(world, split=Split.TRAIN, seed=world.seed + config.seed) for world in worlds]
    dataset = PictureDataset(worlds, config.num_pictures, **sizes)
    clips = {path: clip for folder in config.data for path, clip in read_clips(folder).items()}
    frames = VisionDataset(clips, index, skip_bad=config.skip_bad > 0, **sizes)
    rate = config.learning_rate or config.SMALL_LEARNING_RATE
    arguments = training_arguments(config, run_folder, len(dataset), rate, ranks.count, model)
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
    described = record(config, base, frames.entry_names, ranks, learning_rate=rate, steps=arguments.max_steps)
    described |= {"delta_encoder": "none yet", "colours": COLOUR_NAMES, "shapes": SHAPES}
    ranks.from_main(lambda: begin_run(run, described, bad, config, on_begin), "while the run begins")

    def conclude() -> None:
        found = evaluate(model, frames, config.eval_frames)
        run.add_to_config({"slots_of_clips": found})
        on_note("slots of clips: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))

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
        on_trained=conclude,
    )
    return run.result


def _start(config: VisionConfig) -> tuple[VisionModel, Base]:
    """Return cope-tiny with fresh weights, or what `--model` names with its heads."""
    if config.model is None:
        videolm, tokenizer = build_tiny_videolm(vocabulary(), seed=config.seed)
        model, described = _model(videolm, config.seed), f"cope-tiny, fresh weights, seed {config.seed}"
    else:
        folder = model_folder(config.model)
        if not (folder / HEADS_FILE).is_file():
            hint = "Name a run of `cope train vision`, or leave --model away: that builds cope-tiny."
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
    """Return the model's losses and shares of right answers over evenly spaced frames of a dataset."""
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
