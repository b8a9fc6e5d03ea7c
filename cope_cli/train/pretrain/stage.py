"""`cope train pretrain`: the Delta-encoder learns to say what changed, in the vision encoder's terms (paper 3.3, B).

From the vision tokens of slot t-1 and the Delta-tokens of slot t, two alignment modules predict the vision tokens of
slot t (Eq. 7-10). The vision tower is frozen; the alignment modules are dropped when the Delta-encoder is used.

Legend: P pairs, M vision tokens of a frame, D their width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from cope_cli.cache.store import Cache
from cope_cli.data.collate import PairBatch
from cope_cli.model.alignment import Alignment, AlignmentConfig, patch_loss
from cope_cli.model.checkpoint.description import TRAINED_ON_BY_DEFAULT
from cope_cli.model.checkpoint.folders import load_delta_encoder, save_delta_encoder
from cope_cli.model.delta_encoder import DeltaEncoder
from cope_cli.model.videolm import VideoLM
from cope_cli.runs import RunFolder
from cope_cli.train.loop.batches import ErrorsAsSamples, PretrainCollator
from cope_cli.train.loop.clock import StepClock
from cope_cli.train.loop.ranks import Ranks
from cope_cli.train.loop.setup import (
    Base,
    LeftOut,
    OnBegin,
    OnStep,
    add_frames,
    begin_run,
    fresh_delta_encoder,
    load_base,
    open_run,
    record,
    ways_of,
)
from cope_cli.train.loop.sharding import load_full_state_dict
from cope_cli.train.pretrain.config import PretrainConfig
from cope_cli.train.pretrain.evaluation import CHANGED_SHARE, Evaluator, HeldOutBatches, described, error_sums, judge
from cope_cli.train.pretrain.features import VisionKey, check_size, missing_slots, share_of, store_features
from cope_cli.train.pretrain.windows import PretrainData, open_pretrain_data
from cope_cli.types import OnItem, OnText

#: Alignment modules under the small recipe, as wide as the vision tokens; others have the paper's width.
SMALL_ALIGNMENT = AlignmentConfig(width=96, depth=2, heads=4)


class PretrainOutput(NamedTuple):
    """Two scalars, means over the pairs of a batch.

    Attributes:
        loss: Eq. 10.
        copy_loss: the same of predicting that slot t looks like slot t-1.
    """

    loss: Tensor
    copy_loss: Tensor


class PretrainModel(nn.Module):
    """Vision tower, Delta-encoder and alignment modules, from pixels to Eq. 10 in one forward.

    Args:
        vision: a VideoLM, of which the vision tower is kept and frozen; the rest is dropped to save memory.
        delta_encoder: what is trained.
        alignment: trained with it.
    """

    def __init__(self, vision: VideoLM, delta_encoder: DeltaEncoder, alignment: Alignment) -> None:
        super().__init__()
        self.clock = StepClock()
        vision.delta_encoder = None
        vision.base.lm_head = nn.Identity()
        for part in ("language_model", "multi_modal_projector"):
            setattr(vision.base.model, part, nn.Identity())
        self.vision = vision.float().requires_grad_(False)  # a target to be met: not rounded to a stored bfloat16
        self.delta_encoder = delta_encoder
        self.alignment = alignment

    def forward(self, batch: PairBatch, compare: bool = False) -> PretrainOutput | Tensor:
        """Run a batch of P pairs.

        Args:
            batch: the pairs.
            compare: evaluate all but the last pair, which only lends its Delta-tokens to the one before; without
                gradients.

        Returns:
            The losses; what `error_sums` returns if `compare`.
        """
        device = batch.motion.device
        with self.clock.part("vision", device), torch.no_grad():
            reference, target = self._vision_tokens(batch)  # (P, M, D) each, Eq. 7
        with self.clock.part("delta_encoder", device):
            delta = self.delta_encoder(batch.motion, batch.residual, batch.frame_size_px)
        reference = reference.to(delta.dtype)
        if compare:
            reference, target, own, other = reference[:-1], target[:-1], delta[:-1], delta[1:]
            shown = {"model": own, "zeroed": torch.zeros_like(own), "shuffled": other}
            predictions = {name: self.alignment(reference, tokens) for name, tokens in shown.items()}
            return error_sums(predictions, reference, target)
        with self.clock.part("alignment", device):
            predicted = self.alignment(reference, delta)
            return PretrainOutput(loss=patch_loss(predicted, target), copy_loss=patch_loss(reference, target))

    def predict(self, batch: PairBatch) -> Tensor:
        """Return the vision tokens predicted for the P slots of a batch, (P, M, D) (Eq. 8 and 9)."""
        delta = self.delta_encoder(batch.motion, batch.residual, batch.frame_size_px)
        reference = self._vision_tokens(replace(batch, rgb=batch.rgb[:, :1], tokens=None))[0]
        predicted: Tensor = self.alignment(reference.to(delta.dtype), delta)
        return predicted

    def _vision_tokens(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Return the vision tokens of the slots before and of the P slots: stored ones, or computed."""
        if batch.tokens is not None:
            tokens = batch.tokens.float()
        else:
            flat = self.vision.vision_tokens(batch.rgb.flatten(0, 1))
            tokens = flat.reshape(len(batch), -1, *flat.shape[1:])
        return tokens[:, 0], tokens[:, -1]


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """Loss and checkpoints of pre-training.

    Attributes:
        fusion_frames: the fusion window s of the data, the largest of a mix.
        vision_sha256: hash of the vision tower.
        token_width: D.
        fusion_windows: all windows of a mix.
        primitives: how those of the data were made: "re-encoded", "direct", or both.
    """

    fusion_frames: int
    vision_sha256: str
    token_width: int
    fusion_windows: tuple[int, ...] = ()
    primitives: tuple[str, ...] = TRAINED_ON_BY_DEFAULT

    def loss(
        self, model: nn.Module, batch: PairBatch, labels: Tensor, num_items: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the batch's share of Eq. 10; beside it the same per number of a token, and that of copying."""
        output = model(batch)
        share = labels.ne(-100).sum() / num_items
        loss = output.loss * share
        return loss, {"loss_per_number": loss / self.token_width, "copy_loss": output.copy_loss * share}

    def learning_rate_of(self, name: str) -> float | None:
        """Return None: all that is trained has the run's rate."""
        return None

    def save(self, model: nn.Module, folder: Path, state_dict: Mapping[str, Tensor] | None) -> None:
        """Write Delta-encoder and alignment modules."""
        assert isinstance(model, PretrainModel)
        save_delta_encoder(
            model.delta_encoder,
            folder,
            alignment=model.alignment,
            state_dict=state_dict,
            fusion_frames=self.fusion_frames,
            fusion_windows=self.fusion_windows,
            primitives=self.primitives,
            vision_sha256=self.vision_sha256,
        )

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read both back."""
        assert isinstance(model, PretrainModel)
        loaded = load_delta_encoder(folder)
        assert loaded.alignment is not None
        load_full_state_dict(model.delta_encoder, loaded.delta_encoder.state_dict())
        load_full_state_dict(model.alignment, loaded.alignment.state_dict())


def build_pretrain_model(base: Base, config: PretrainConfig) -> PretrainModel:
    """Build what is trained around a base model's vision tower; new weights depend on the seed alone."""
    encoder = fresh_delta_encoder(base, config)
    sizes = AlignmentConfig()
    if config.is_small:
        sizes = replace(SMALL_ALIGNMENT, width=encoder.config.out_width)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed + 1)
        alignment = Alignment(
            sizes, token_width=encoder.config.out_width, num_motion_tokens=encoder.config.num_motion_tokens
        )
    return PretrainModel(base.model, encoder, alignment)


def pretrain(
    cache: Cache,
    config: PretrainConfig,
    run_folder: Path,
    *,
    resume: bool = False,
    is_large_accepted: bool = False,
    on_begin: OnBegin = lambda record: None,
    on_progress: OnStep = lambda step, total, metrics: None,
    on_frames: OnItem = lambda entry, done, total: None,
    on_note: OnText = lambda text: None,
) -> Path:
    """Pre-train a Delta-encoder on all pairs of consecutive slots of a cache, except those of held-out videos.

    Missing RGB slots, or vision tokens under `store_features`, are added to the cache first.

    Args:
        cache: holds the primitives.
        config: the settings.
        run_folder: where the run goes.
        resume: continue an unfinished run.
        is_large_accepted: store vision tokens even where they take more than `features.LIMIT_BYTES`.
        on_begin: called once with what config.json says: base model, Delta-encoder, settings.
        on_progress: called with (step, steps in all, logged values).
        on_frames: called with (entry, seconds done, seconds in all) while RGB slots or vision tokens are added.
        on_note: called on rank 0 with what a person should know, a line at a time: disk space, evaluations.

    Returns:
        The folder of the Delta-encoder.

    Raises:
        UsageError: the run folder is taken, or the run there cannot be resumed; or storing takes too much.
        RanksError: started by torchrun, and another rank did not come or is gone.
        EntryNotFoundError, DataError, CacheCorruptError: the cache has nothing to train on, or not in good order.
        CheckpointError: the model cannot be used.
    """
    from cope_cli.train.loop.arguments import training_arguments
    from cope_cli.train.loop.engine import run_training

    config = config.resolve()
    ranks, run = open_run("pretrain", run_folder, config, resume=resume)
    base = load_base(config)
    size_px = base.model.vision_size_px
    key = VisionKey.of(base.model, base.vision_sha256)
    data = open_pretrain_data(cache, config, size_px=size_px, features=key.name if config.store_features else None)
    model = build_pretrain_model(base, config)
    pairs = data.pairs(config.seed)
    rate = config.resolved_learning_rate(ranks.count)
    arguments = training_arguments(config, run_folder, len(pairs), rate, ranks.count, model)
    _add_what_is_read(cache, config, data, model, key, arguments.device, ranks, is_large_accepted, on_frames, on_note)
    about = record(config, base, data.entry_names(data.train), ranks, learning_rate=rate, steps=arguments.max_steps)
    about |= _about(config, data, model, key)

    ranks.from_main(lambda: begin_run(run, about, data.bad, config, on_begin), "while the run begins")
    if data.note and ranks.is_main:
        on_note(data.note)
    left_out = LeftOut(run, ranks, max_bad=config.skip_bad)
    token_shape = key.shape if config.store_features else None
    collator = PretrainCollator(size_px=size_px, grid_px=config.grid_px, token_shape=token_shape)
    run_training(
        recipe=_recipe(config, base, model, data),
        model=model,
        dataset=ErrorsAsSamples(pairs),
        collator=collator,
        arguments=arguments,
        run=run,
        on_progress=on_progress,
        ranks=ranks,
        config=config,
        left_out=left_out,
        callbacks=_evaluators(config, data, collator, left_out, model.clock, on_note),
        clock=model.clock,
        on_trained=lambda: _conclude(run),
    )
    return run.result


def _recipe(config: PretrainConfig, base: Base, model: PretrainModel, data: PretrainData) -> PretrainRecipe:
    return PretrainRecipe(
        fusion_frames=config.fusion_frames,
        fusion_windows=config.windows if config.fusion_mix else (),
        vision_sha256=base.vision_sha256,
        token_width=model.delta_encoder.config.out_width,
        primitives=ways_of(data.entries, data.entry_names(data.train)),
    )


def _about(config: PretrainConfig, data: PretrainData, model: PretrainModel, key: VisionKey) -> dict[str, Any]:
    """Return what config.json says of pre-training alone."""
    return {
        "num_pairs": len(data.pairs(config.seed)),
        "delta_encoder": f"fresh, {model.delta_encoder.num_parameters():,} parameters",
        "delta_encoder_config": model.delta_encoder.config.to_dict(),
        "fusion_windows": list(config.windows),
        "held_out_entries": data.entry_names(data.held_out),
        "held_out_note": data.note,
        "changed_patch_share": CHANGED_SHARE,
        "features": key.name if config.store_features else None,
    }


def _add_what_is_read(
    cache: Cache,
    config: PretrainConfig,
    data: PretrainData,
    model: PretrainModel,
    key: VisionKey,
    device: torch.device,
    ranks: Ranks,
    is_large_accepted: bool,
    on_frames: OnItem,
    on_note: OnText,
) -> None:
    """Add the RGB slots that the cache lacks, on rank 0; or the vision tokens, each rank those of some entries."""
    slots_of = {name: part.rgb_slots(name) for part in data.datasets for name in part.entry_names}
    is_skipping = config.skip_bad > 0
    if not config.store_features:
        add_frames(
            cache,
            data.entries,
            slots_of,
            slots_of.__getitem__,
            size_px=key.size_px,
            skip_bad=is_skipping,
            on_frames=on_frames,
            ranks=ranks,
        )
        return

    def look() -> dict[str, list[int]]:
        missing = missing_slots(data.entries, slots_of, key)
        if missing:
            on_note(check_size(sum(map(len, missing.values())), key, is_accepted=is_large_accepted))
        return missing

    missing = ranks.from_main(look, "while rank 0 looks which vision tokens are stored")
    if not missing:
        return
    model.vision.to(device)
    store = partial(
        store_features,
        cache,
        data.entries,
        share_of(missing, ranks),
        model.vision,
        key,
        batch_size=config.batch_size,
        skip_bad=is_skipping,
        on_entry=on_frames if ranks.is_main else lambda entry, done, total: None,
    )
    ranks.all_or_none(store, "while vision tokens are stored")


def _evaluators(
    config: PretrainConfig,
    data: PretrainData,
    collator: PretrainCollator,
    left_out: LeftOut,
    clock: StepClock,
    on_note: OnText,
) -> list[TrainerCallback]:
    """Return what evaluates between the steps, if videos are held out."""
    if not data.held_out:
        return []
    sets = {
        window: HeldOutBatches(part, batch_size=config.batch_size, max_pairs=config.eval_pairs, seed=config.seed)
        for window, part in data.held_out.items()
    }
    evaluator = Evaluator(
        sets=sets,
        collate=collator,
        every=config.eval_steps,
        workers=config.workers,
        left_out=left_out,
        clock=clock,
        on_line=lambda line: on_note(described(line)),
    )
    return [evaluator]


def _conclude(run: RunFolder) -> None:
    """Record whether the run beat copying."""
    verdict = judge(run.evaluations())
    if verdict is not None:
        run.add_to_config({"beats_copying": verdict.beats_copying, "verdict": verdict.text})
