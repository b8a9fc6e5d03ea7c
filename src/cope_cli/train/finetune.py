"""`cope train finetune`: the language model learns to answer from RGB and Delta-tokens (paper 3.3, 4.1, C).

Language model, projector, newline and Delta-encoder are trained on the answers' tokens; the vision tower is frozen
unless `train_vision` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cope_cli.cache.store import Cache
from cope_cli.data.conversations import read_items
from cope_cli.data.datasets import BadSample, FinetuneDataset
from cope_cli.data.prompt import PromptBuilder
from cope_cli.errors import CheckpointError, DataError
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.checkpoint import LoadedDeltaEncoder, load_delta_encoder, load_videolm, save_videolm
from cope_cli.model.delta_encoder import DeltaEncoder
from cope_cli.model.videolm import VideoLM
from cope_cli.train.batches import ErrorsAsSamples, FinetuneCollator
from cope_cli.train.config import FRESH, FinetuneConfig
from cope_cli.train.runs import RunFolder, finished_runs, newest_checkpoint, result_folder
from cope_cli.train.setup import (
    Base,
    OnBegin,
    OnFrames,
    OnProgress,
    add_frames,
    delta_encoder_folder,
    fresh_delta_encoder,
    load_base,
    open_index,
    record,
)

_VISION = "base.model.vision_tower."


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """Loss, rates and checkpoints of finetuning.

    Attributes:
        tokenizer: saved with the model.
        fusion_frames: the fusion window s of the data.
        vision_learning_rate: peak rate of the vision tower, where it is trained.
    """

    tokenizer: Any
    fusion_frames: int
    vision_learning_rate: float

    def loss(
        self, model: nn.Module, batch: VideoLMBatch, labels: Tensor, num_items: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the batch's share of the next-token loss on the answers."""
        return model(batch, num_items_in_batch=num_items).loss, {}

    def learning_rate_of(self, name: str) -> float | None:
        """Return the vision tower's own rate."""
        return self.vision_learning_rate if name.startswith(_VISION) else None

    def save(self, model: nn.Module, folder: Path, state_dict: Mapping[str, Tensor] | None) -> None:
        """Write the VideoLM."""
        assert isinstance(model, VideoLM)
        save_videolm(model, self.tokenizer, folder, fusion_frames=self.fusion_frames, state_dict=state_dict)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read it back."""
        model.load_state_dict(load_videolm(folder).model.state_dict())


def set_trainable(model: VideoLM, *, train_vision: bool) -> None:
    """Let everything learn but the vision tower, of which at most what the features depend on does."""
    model.requires_grad_(True)
    model.base.model.vision_tower.requires_grad_(False)
    if train_vision:
        for parameter in model.vision_parameters():
            parameter.requires_grad_(True)


def choose_delta_encoder(base: Base, config: FinetuneConfig, runs_root: Path) -> tuple[DeltaEncoder, str]:
    """Return the Delta-encoder to start from, and where it comes from in words.

    Raises:
        CheckpointError: it does not fit the model or the data; says in what.
    """
    if config.delta_encoder == FRESH:
        return fresh_delta_encoder(base, config, config.delta_preset), "fresh, as asked for"
    if config.delta_encoder is not None:
        folder = delta_encoder_folder(config.delta_encoder, runs_root)
        return _checked(load_delta_encoder(folder), base, config), str(folder)
    if config.model is not None and base.model.delta_encoder is not None:
        _check_fit(str(config.model), base.model.delta_encoder, base.fusion_frames, base.vision_sha256, base, config)
        return base.model.delta_encoder, "the model's own"
    runs = finished_runs(runs_root, "pretrain")
    for run in runs:
        folder = result_folder(run, "pretrain")
        loaded = load_delta_encoder(folder)
        # A run for another model is no candidate. The small model has no name that would set its runs apart.
        if config.model is None or loaded.vision_sha256 == base.vision_sha256:
            return _checked(loaded, base, config), f"{folder}, the newest finished pretrain run"
    why = f"none of the {len(runs)} finished pretrain runs in {runs_root} is for this vision tower"
    fresh = fresh_delta_encoder(base, config, config.delta_preset)
    return fresh, f"fresh: {why if runs else f'no finished pretrain run in {runs_root}'}"


def _checked(loaded: LoadedDeltaEncoder, base: Base, config: FinetuneConfig) -> DeltaEncoder:
    window = loaded.window_for(config.fusion_frames)
    _check_fit(str(loaded.folder), loaded.delta_encoder, window, loaded.vision_sha256, base, config)
    return loaded.delta_encoder


def _check_fit(
    where: str,
    encoder: DeltaEncoder,
    fusion_frames: int | None,
    vision_sha256: str,
    base: Base,
    config: FinetuneConfig,
) -> None:
    """Refuse a Delta-encoder that was trained for something else."""
    wanted = {
        "vision tower": (vision_sha256[:12], base.vision_sha256[:12]),
        "token width": (encoder.config.out_width, base.model.base.config.vision_config.hidden_size),
        "grid": (encoder.config.grid_px, config.grid_px),
        "fusion window": (fusion_frames, config.fusion_frames),
    }
    different = [f"{name} {found}, {needed} needed" for name, (found, needed) in wanted.items() if found != needed]
    if different:
        raise CheckpointError(
            f"{where}: its Delta-encoder does not fit: {'; '.join(different)}",
            f"Name another with --delta-encoder, or start anew with --delta-encoder {FRESH}.",
        )


def _dataset(
    cache: Cache, config: FinetuneConfig, base: Base
) -> tuple[FinetuneDataset, Mapping[str, Any], list[BadSample]]:
    """Read the data file and find its videos; returns the dataset, the cache's entries and what was left out."""
    index, bad = open_index(cache, config)

    def leave_out(error: DataError) -> None:
        bad.append(BadSample(where=error.message, message="malformed"))

    items = read_items(config.data, on_bad=leave_out if config.skip_bad else None)
    builder = PromptBuilder(
        tokenizer=base.tokenizer,
        costs=base.model.token_costs,
        context_tokens=base.model.context_tokens,
        keyframes_per_gop=config.keyframes,
        max_gops=config.max_gops,
    )
    dataset = FinetuneDataset(
        items,
        index,
        builder,
        size_px=base.model.vision_size_px,
        video_root=config.video_root,
        skip_bad=config.skip_bad,
    )
    return dataset, index.entries, [*bad, *dataset.bad]


def finetune(
    cache: Cache,
    config: FinetuneConfig,
    run_folder: Path,
    *,
    resume: bool = False,
    on_begin: OnBegin = lambda record: None,
    on_progress: OnProgress = lambda step, total, metrics: None,
    on_frames: OnFrames = lambda entry, done, total: None,
) -> Path:
    """Finetune a VideoLM on conversations about videos of a cache.

    Args:
        cache: holds the primitives; missing RGB slots are added first.
        config: the settings.
        run_folder: where the run goes; pretrain runs are looked for beside it.
        resume: go on with an unfinished run.
        on_begin: called once with what config.json says: base model, Delta-encoder, settings.
        on_progress: called with (step, steps in all, logged values).
        on_frames: called with (entry, seconds done, seconds in all) while RGB slots are added.

    Returns:
        The folder of the model.

    Raises:
        UsageError: the run folder is taken, or the run there cannot be gone on with.
        PathNotFoundError, DataError, EntryNotFoundError, CacheCorruptError: data file or cache cannot be used.
        CheckpointError: the model or the Delta-encoder cannot be used.
    """
    from cope_cli.train.engine import run_training, training_arguments

    run = RunFolder(run_folder, "finetune")
    run.check(config.settings(), resume=resume)
    # In float32, whatever they are stored in: bfloat16 weights would not feel a step of 1e-5.
    base = load_base(config, torch.float32)
    checkpoint = newest_checkpoint(run_folder)
    if checkpoint is None:
        base.model.delta_encoder, source = choose_delta_encoder(base, config, run_folder.parent)
    else:  # the choice made at the start holds, whatever runs have finished since
        base.model.delta_encoder = load_videolm(checkpoint / "model").model.delta_encoder
        source = run.config()["delta_encoder"]
    set_trainable(base.model, train_vision=config.train_vision)
    dataset, entries, bad = _dataset(cache, config, base)
    rate = config.resolved_learning_rate()
    arguments = training_arguments(config, run_folder, len(dataset), rate)
    size_px = base.model.vision_size_px
    add_frames(
        cache,
        entries,
        dataset.entry_names,
        dataset.rgb_slots,
        size_px=size_px,
        skip_bad=config.skip_bad,
        on_frames=on_frames,
    )
    values = {"learning_rate": rate, "steps": arguments.max_steps, "num_items": len(dataset), "delta_encoder": source}
    described = record(config, base, dataset.entry_names, **values)
    run.begin(described, bad)
    on_begin(described)
    run_training(
        recipe=FinetuneRecipe(
            tokenizer=base.tokenizer,
            fusion_frames=config.fusion_frames,
            vision_learning_rate=config.vision_learning_rate,
        ),
        model=base.model,
        dataset=ErrorsAsSamples(dataset),
        collator=FinetuneCollator(pad_id=base.tokenizer.pad_token_id, size_px=size_px, grid_px=config.grid_px),
        arguments=arguments,
        run=run,
        on_progress=on_progress,
    )
    return run.result
