"""`cope train finetune`: the language model learns to answer from RGB and Delta-tokens (paper 3.3, 4.1, C).

Trained on the answers' tokens are the parts that `trainable` names; the vision tower is frozen unless `train_vision`
asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cope_cli.cache.store import Cache
from cope_cli.data.datasets import BadSample, FinetuneDataset
from cope_cli.data.prompt import PromptBuilder
from cope_cli.data.recipes import read_data
from cope_cli.errors import CheckpointError, DataError
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.checkpoint.adapter import (
    Adapter,
    BasePointer,
    load_adapter_weights,
    load_own_delta_encoder,
    save_adapter,
)
from cope_cli.model.checkpoint.description import TRAINED_ON_BY_DEFAULT
from cope_cli.model.checkpoint.folders import LoadedDeltaEncoder, load_delta_encoder, load_videolm, save_videolm
from cope_cli.model.delta_encoder import DeltaEncoder
from cope_cli.model.lora import LoraSizes, add_lora
from cope_cli.model.videolm import VideoLM
from cope_cli.runs import RunFolder, delta_encoder_folder, finished_runs, newest_checkpoint, result_folder
from cope_cli.train.finetune.config import FRESH, FinetuneConfig
from cope_cli.train.finetune.trainable import halve_frozen_weights, num_parameters, part_of, set_trainable
from cope_cli.train.loop.batches import ErrorsAsSamples, FinetuneCollator
from cope_cli.train.loop.setup import (
    SMALL_MODEL_SEED,
    Base,
    OnBegin,
    OnStep,
    add_frames,
    begin_run,
    fresh_delta_encoder,
    load_base,
    open_index,
    open_run,
    record,
    ways_of,
)
from cope_cli.train.loop.sharding import load_full_state_dict
from cope_cli.types import OnItem


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """Loss, rates and checkpoints of finetuning.

    Attributes:
        tokenizer: saved with the model.
        fusion_frames: the fusion window s of the data.
        vision_learning_rate: peak rate of the vision tower, where it is trained.
        keyframes_per_gop: K of the data; None: several.
        primitives: how those of the data were made: "re-encoded", "direct", or both.
        adapter: set where the language model is trained by LoRA: only what is trained is saved then.
    """

    tokenizer: Any
    fusion_frames: int
    vision_learning_rate: float
    keyframes_per_gop: int | None = None
    primitives: tuple[str, ...] = TRAINED_ON_BY_DEFAULT
    adapter: Adapter | None = None

    def loss(
        self, model: nn.Module, batch: VideoLMBatch, labels: Tensor, num_items: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the batch's share of the next-token loss on the answers."""
        return model(batch, num_items_in_batch=num_items).loss, {}

    def learning_rate_of(self, name: str) -> float | None:
        """Return the vision tower's own rate."""
        return self.vision_learning_rate if part_of(name) == "vision" else None

    def save(self, model: nn.Module, folder: Path, state_dict: Mapping[str, Tensor] | None) -> None:
        """Write the VideoLM, or its adapter."""
        assert isinstance(model, VideoLM)
        if self.adapter is not None:
            adapter = replace(self.adapter, primitives=self.primitives)
            save_adapter(model, folder, adapter, state_dict=state_dict)
            return
        save_videolm(
            model,
            self.tokenizer,
            folder,
            fusion_frames=self.fusion_frames,
            keyframes_per_gop=self.keyframes_per_gop,
            primitives=self.primitives,
            state_dict=state_dict,
        )

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read it back."""
        if self.adapter is not None:
            assert isinstance(model, VideoLM)
            load_adapter_weights(model, folder)
        else:
            load_full_state_dict(model, load_videolm(folder).model.state_dict())


def choose_delta_encoder(base: Base, config: FinetuneConfig, runs_root: Path) -> tuple[DeltaEncoder, str]:
    """Return the Delta-encoder to start from, and where it comes from in words.

    Raises:
        CheckpointError: it does not fit the model or the data; says in what.
    """
    if config.delta_encoder == FRESH:
        return fresh_delta_encoder(base, config), "fresh, as asked for"
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
    fresh = fresh_delta_encoder(base, config)
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

    data = read_data(config.data, seed=config.seed, on_bad=leave_out if config.skip_bad else None)
    builder = PromptBuilder(
        tokenizer=base.tokenizer,
        costs=base.model.token_costs,
        context_tokens=base.model.context_tokens,
        keyframes_per_gop=config.keyframe_mix.counts[-1],
        max_gops=config.max_gops,
        include_delta=config.delta == "on",
    )
    dataset = FinetuneDataset(
        data.items,
        index,
        builder,
        size_px=base.model.vision_size_px,
        keyframes=config.keyframe_mix,
        seed=config.seed,
        video_root=config.video_root,
        skip_bad=config.skip_bad > 0,
        pack=config.pack,
    )
    return dataset, index.entries, [*bad, *dataset.bad]


def _add_adapter(base: Base, config: FinetuneConfig) -> Adapter | None:
    """Put LoRA adapters into the model, if they are asked for; returns what they belong to."""
    if config.lora is None:
        return None
    if config.model is None:
        pointer = BasePointer.to_small(SMALL_MODEL_SEED, config.grid_px)
    else:
        pointer = BasePointer.to_model(config.model)
    sizes = LoraSizes(rank=config.lora, alpha=config.lora_alpha or 2 * config.lora)
    add_lora(base.model, sizes, seed=config.seed)
    return Adapter(base=pointer, lora=sizes, has_vision=config.train_vision, fusion_frames=config.fusion_frames)


def _load_start(config: FinetuneConfig, run: RunFolder, runs_root: Path) -> tuple[Base, str, Adapter | None]:
    """Return the model to train, where its Delta-encoder comes from, and the LoRA adapter if there is one."""
    # In float32 even if stored otherwise: in bfloat16, a step of 1e-5 would not change the weights.
    base = load_base(config, torch.float32)
    checkpoint = newest_checkpoint(run.path)
    if checkpoint is None:
        base.model.delta_encoder, source = choose_delta_encoder(base, config, runs_root)
    else:  # the choice made at the start holds, even if other runs have finished since
        kind = "videolm" if config.lora is None else "adapter"
        base.model.delta_encoder = load_own_delta_encoder(checkpoint / "model", kind)
        source = run.config()["delta_encoder"]
    adapter = _add_adapter(base, config)
    set_trainable(base.model, train_vision=config.train_vision, freeze=config.freeze, lora=adapter is not None)
    if config.keeps_frozen_bf16:
        halve_frozen_weights(base.model)
    return base, source, adapter


def _recipe(config: FinetuneConfig, base: Base, adapter: Adapter | None, primitives: tuple[str, ...]) -> FinetuneRecipe:
    keyframes = config.keyframe_mix.counts
    return FinetuneRecipe(
        tokenizer=base.tokenizer,
        fusion_frames=config.fusion_frames,
        vision_learning_rate=config.vision_learning_rate,
        keyframes_per_gop=keyframes[0] if len(keyframes) == 1 else None,
        primitives=primitives,
        adapter=adapter,
    )


def finetune(
    cache: Cache,
    config: FinetuneConfig,
    run_folder: Path,
    *,
    resume: bool = False,
    runs_root: Path | None = None,
    stop_after: int | None = None,
    on_begin: OnBegin = lambda record: None,
    on_progress: OnStep = lambda step, total, metrics: None,
    on_frames: OnItem = lambda entry, done, total: None,
) -> Path:
    """Finetune a VideoLM on conversations about videos of a cache.

    Args:
        cache: holds the primitives; missing RGB slots are added first.
        config: the settings.
        run_folder: where the run goes.
        resume: continue an unfinished run.
        runs_root: where pretrain runs are looked for; None: beside the run's folder.
        stop_after: end after this many steps and write no result; None trains to the end.
        on_begin: called once with what config.json says: base model, Delta-encoder, settings.
        on_progress: called with (step, steps in all, logged values).
        on_frames: called with (entry, seconds done, seconds in all) while RGB slots are added.

    Returns:
        The folder of the model.

    Raises:
        UsageError: the run folder is taken, or the run there cannot be resumed.
        RanksError: started by torchrun, and another rank did not come or is gone.
        PathNotFoundError, DataError, EntryNotFoundError, CacheCorruptError: data file or cache cannot be used.
        CheckpointError: the model or the Delta-encoder cannot be used.
    """
    from cope_cli.train.loop.arguments import training_arguments
    from cope_cli.train.loop.engine import run_training

    config = config.resolve()
    ranks, run = open_run("finetune", run_folder, config, resume=resume)
    base, source, adapter = _load_start(config, run, runs_root or run_folder.parent)
    dataset, entries, bad = _dataset(cache, config, base)
    rate = config.resolved_learning_rate()
    arguments = training_arguments(config, run_folder, len(dataset), rate, ranks.count, base.model)
    size_px = base.model.vision_size_px
    wanted = (entries, dataset.entry_names, dataset.rgb_slots)
    add_frames(cache, *wanted, size_px=size_px, skip_bad=config.skip_bad > 0, on_frames=on_frames, ranks=ranks)
    values = {"learning_rate": rate, "steps": arguments.max_steps, "num_items": len(dataset), "delta_encoder": source}
    values |= {"num_trained_parameters": num_parameters(base.model, trained_only=True)}
    described = record(config, base, dataset.entry_names, ranks, **values)
    ranks.from_main(lambda: begin_run(run, described, bad, config, on_begin), "while the run begins")
    run_training(
        recipe=_recipe(config, base, adapter, ways_of(entries, dataset.entry_names)),
        model=base.model,
        dataset=ErrorsAsSamples(dataset),
        collator=FinetuneCollator(pad_id=base.tokenizer.pad_token_id, size_px=size_px, grid_px=config.grid_px),
        arguments=arguments,
        run=run,
        on_progress=on_progress,
        ranks=ranks,
        config=config,
        lengths=dataset.lengths() if config.group_by_length else None,
        stop_after=stop_after,
    )
    return run.result
