"""One rank of the sharding test: one optimiser step of a model sharded over two ranks, saved whole by rank 0.

Rank 0 has a video, rank 1 text alone and no pair: the ranks' batches differ as much as batches can.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from train_setup import GRID_PX, SIZE_PX, finetune_config, pretrain_config

from cope_cli.data.collate import PairBatch
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.token_plan import TokenKind
from cope_cli.train.finetune.stage import FinetuneRecipe, set_trainable
from cope_cli.train.loop.batches import PretrainCollator
from cope_cli.train.loop.ranks import Ranks, join_ranks, leave_ranks
from cope_cli.train.loop.setup import fresh_delta_encoder, load_base
from cope_cli.train.loop.sharding import checkpoint_activations, full_state_dict, layer_classes
from cope_cli.train.pretrain.stage import PretrainRecipe, build_pretrain_model

RATE = 1e-2


def build(kind: str, *, train_vision: bool = True) -> tuple[nn.Module, Any]:
    """Return a stage's model and recipe, the same in every process."""
    if kind == "pretrain":
        config = pretrain_config()
        model = build_pretrain_model(load_base(config), config)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for updater in (model.alignment.theta_ref, model.alignment.theta_warped):  # zero lets no gradient through
                nn.init.normal_(updater.projection_out.weight, std=0.1)
        return model, PretrainRecipe(fusion_frames=30, vision_sha256="", token_width=96)
    finetuned = finetune_config(Path("qa.json"))
    base = load_base(finetuned)
    base.model.delta_encoder = fresh_delta_encoder(base, finetuned)
    set_trainable(base.model, train_vision=train_vision)
    return base.model, FinetuneRecipe(tokenizer=base.tokenizer, fusion_frames=30, vision_learning_rate=1e-3)


def pair_batch(rank: int) -> tuple[PairBatch, torch.Tensor]:
    """Two pairs on rank 0, none on rank 1."""
    if rank:
        empty = PretrainCollator(size_px=SIZE_PX, grid_px=GRID_PX)([])
        return empty["batch"], empty["labels"]
    random = torch.Generator().manual_seed(5)
    return PairBatch(
        rgb=torch.randint(0, 256, (2, 2, SIZE_PX, SIZE_PX, 3), generator=random, dtype=torch.uint8),
        motion=torch.randint(-9, 9, (2, 2, GRID_PX, GRID_PX), generator=random, dtype=torch.int16),
        residual=torch.randint(-99, 99, (2, GRID_PX, GRID_PX, 3), generator=random, dtype=torch.int16),
        frame_size_px=torch.full((2, 2), 128, dtype=torch.int32),
    ), torch.zeros(2, dtype=torch.int64)


def video_batch(model: Any, rank: int) -> tuple[VideoLMBatch, torch.Tensor]:
    """One frame and two P slots before the text on rank 0, text alone on rank 1."""
    random = torch.Generator().manual_seed(7)
    costs = model.token_costs
    num_rgb, num_delta = (0, 0) if rank else (1, 2)
    kinds = [TokenKind.RGB] * (num_rgb * costs.grid_rows * costs.grid_cols)
    kinds += [TokenKind.DELTA] * (num_delta * model.delta_encoder.config.num_tokens) + [TokenKind.TEXT] * 6
    token_kind = torch.tensor([[int(kind) for kind in kinds]], dtype=torch.uint8)
    ids = torch.randint(0, 90, token_kind.shape, generator=random)
    labels = torch.where(token_kind == TokenKind.TEXT, ids, -100)
    labels[:, :-5] = -100
    batch = VideoLMBatch(
        input_ids=ids,
        token_kind=token_kind,
        attention_mask=torch.ones_like(ids),
        labels=labels,
        rgb=torch.randint(0, 256, (num_rgb, SIZE_PX, SIZE_PX, 3), generator=random, dtype=torch.uint8),
        motion=torch.randint(-9, 9, (num_delta, 2, GRID_PX, GRID_PX), generator=random, dtype=torch.int16),
        residual=torch.randint(-99, 99, (num_delta, GRID_PX, GRID_PX, 3), generator=random, dtype=torch.int16),
        frame_size_px=torch.full((num_delta, 2), 128, dtype=torch.int32),
    )
    return batch, labels


def batch_of(kind: str, model: Any, rank: int) -> tuple[Any, torch.Tensor]:
    return pair_batch(rank) if kind == "pretrain" else video_batch(model, rank)


def num_items(kind: str) -> torch.Tensor:
    return torch.tensor(2 if kind == "pretrain" else 10)


def answer(kind: str, model: Any) -> torch.Tensor:
    """What the model says to rank 0's batch: logits, or the two losses."""
    batch, _ = batch_of(kind, model, 0)
    with torch.no_grad():
        output = model(batch)
    return torch.stack([output.loss, output.copy_loss]) if kind == "pretrain" else output.logits


def sharded(model: nn.Module) -> nn.Module:
    """Shard a model by our layers, then the rest, as accelerate does."""
    mesh, names = init_device_mesh("cpu", (2,)), layer_classes(model)
    for module in [module for module in model.modules() if type(module).__name__ in names]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def run(kind: str, out: Path, ranks: Ranks, *, with_checkpointing: bool) -> None:
    model, recipe = build(kind)
    if with_checkpointing:
        assert checkpoint_activations(model) > 0
    sharded(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    batch, labels = batch_of(kind, model, ranks.index)
    loss, _ = recipe.loss(model, batch, labels, num_items(kind))
    (loss * ranks.count).backward()
    optimizer.step()
    said = answer(kind, model)
    state = full_state_dict(model)
    name = f"{kind}-{with_checkpointing}"
    ranks.from_main(lambda: recipe.save(model, out / name, state), "while saving")
    if ranks.is_main:
        torch.save(said, out / f"{name}.pt")
    # The whole weights go back into shards too: what a resumed run does.
    other, _ = build(kind)
    sharded(other)
    recipe.load(other, out / name)
    for (key, value), again in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(value.to_local(), again.to_local()) or key.startswith("vision."), key


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    ranks = join_ranks(cpu=True, timeout_minutes=2)
    for kind in ("finetune", "pretrain"):
        run(kind, out, ranks, with_checkpointing=False)
    run("finetune", out, ranks, with_checkpointing=True)
    leave_ranks()


if __name__ == "__main__":
    main()
