"""`cope train pretrain`: the Delta-encoder learns to say what changed, in the vision encoder's terms (paper 3.3, B).

From the vision tokens of slot t-1 and the Delta-tokens of slot t, two alignment modules predict the vision tokens of
slot t (Eq. 7-10). The vision tower is frozen; the alignment modules are dropped when the Delta-encoder is used.

Legend: P pairs, M vision tokens of a frame, D their width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cope_cli.cache.store import Cache
from cope_cli.data.collate import PairBatch
from cope_cli.data.datasets import PretrainDataset
from cope_cli.model.alignment import Alignment, AlignmentConfig, patch_loss
from cope_cli.model.checkpoint import load_delta_encoder, save_delta_encoder
from cope_cli.model.delta_encoder import DeltaEncoder
from cope_cli.model.videolm import VideoLM
from cope_cli.train.batches import ErrorsAsSamples, PretrainCollator
from cope_cli.train.config import PretrainConfig
from cope_cli.train.ranks import join_ranks
from cope_cli.train.runs import RunFolder
from cope_cli.train.setup import (
    Base,
    OnBegin,
    OnFrames,
    OnProgress,
    add_frames,
    begin_run,
    fresh_delta_encoder,
    load_base,
    open_index,
    record,
)
from cope_cli.train.sharding import check_fsdp, load_full_state_dict

#: Alignment modules for the small model; others have the paper's width.
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
        vision.delta_encoder = None
        vision.base.lm_head = nn.Identity()
        for part in ("language_model", "multi_modal_projector"):
            setattr(vision.base.model, part, nn.Identity())
        self.vision = vision.float().requires_grad_(False)  # a target to be met: not rounded to a stored bfloat16
        self.delta_encoder = delta_encoder
        self.alignment = alignment

    def forward(self, batch: PairBatch) -> PretrainOutput:
        """Run a batch of P pairs."""
        num_pairs = len(batch.rgb)
        with torch.no_grad():
            tokens = self.vision.vision_tokens(batch.rgb.flatten(0, 1))
            tokens = tokens.reshape(num_pairs, 2, *tokens.shape[1:])
        reference, target = tokens[:, 0], tokens[:, 1]  # (P, M, D) each, Eq. 7
        delta = self.delta_encoder(batch.motion, batch.residual, batch.frame_size_px)
        predicted = self.alignment(reference.to(delta.dtype), delta)
        return PretrainOutput(loss=patch_loss(predicted, target), copy_loss=patch_loss(reference, target))


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """Loss and checkpoints of pre-training.

    Attributes:
        fusion_frames: the fusion window s of the data.
        vision_sha256: hash of the vision tower.
        token_width: D.
    """

    fusion_frames: int
    vision_sha256: str
    token_width: int

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
    encoder = fresh_delta_encoder(base, config, config.delta_preset)
    sizes = SMALL_ALIGNMENT if config.model is None else AlignmentConfig()
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
    on_begin: OnBegin = lambda record: None,
    on_progress: OnProgress = lambda step, total, metrics: None,
    on_frames: OnFrames = lambda entry, done, total: None,
) -> Path:
    """Pre-train a Delta-encoder on every pair of neighbouring slots of a cache.

    RGB slots that are missing at the vision encoder's size are added to the cache first, for all slots.

    Args:
        cache: holds the primitives.
        config: the settings.
        run_folder: where the run goes.
        resume: go on with an unfinished run.
        on_begin: called once with what config.json says: base model, Delta-encoder, settings.
        on_progress: called with (step, steps in all, logged values).
        on_frames: called with (entry, seconds done, seconds in all) while RGB slots are added.

    Returns:
        The folder of the Delta-encoder.

    Raises:
        UsageError: the run folder is taken, or the run there cannot be gone on with.
        RanksError: started by torchrun, and another rank did not come or is gone.
        EntryNotFoundError, DataError, CacheCorruptError: the cache has nothing to train on, or not in good order.
        CheckpointError: the model cannot be used.
    """
    from cope_cli.train.engine import run_training, training_arguments

    ranks = join_ranks(cpu=config.cpu, timeout_minutes=config.rank_timeout_minutes)
    check_fsdp(config, ranks)
    run = RunFolder(run_folder, "pretrain")
    settings = config.settings(ranks.count)
    ranks.from_main(lambda: run.check(settings, resume=resume), "while looking at the run's folder")
    index, bad = open_index(cache, config)
    base = load_base(config)
    size_px = base.model.vision_size_px
    model = build_pretrain_model(base, config)
    dataset = PretrainDataset(cache.root, index.entries, size_px=size_px, skip_bad=config.skip_bad > 0)
    rate = config.resolved_learning_rate(ranks.count)
    arguments = training_arguments(config, run_folder, len(dataset), rate, ranks.count, model)
    add_frames(
        cache,
        index.entries,
        dataset.entry_names,
        dataset.rgb_slots,
        size_px=size_px,
        skip_bad=config.skip_bad > 0,
        on_frames=on_frames,
        ranks=ranks,
    )
    described = record(
        config,
        base,
        dataset.entry_names,
        ranks,
        learning_rate=rate,
        steps=arguments.max_steps,
        num_pairs=len(dataset),
        delta_encoder=f"fresh, {model.delta_encoder.num_parameters():,} parameters",
        delta_encoder_config=model.delta_encoder.config.to_dict(),
    )
    ranks.from_main(lambda: begin_run(run, described, bad, config, on_begin), "while the run begins")
    recipe = PretrainRecipe(
        fusion_frames=config.fusion_frames,
        vision_sha256=base.vision_sha256,
        token_width=model.delta_encoder.config.out_width,
    )
    run_training(
        recipe=recipe,
        model=model,
        dataset=ErrorsAsSamples(dataset),
        collator=PretrainCollator(size_px=size_px, grid_px=config.grid_px),
        arguments=arguments,
        run=run,
        on_progress=on_progress,
        ranks=ranks,
        config=config,
    )
    return run.result
