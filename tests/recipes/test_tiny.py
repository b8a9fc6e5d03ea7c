"""cope-tiny before training: its size, and that words and what is seen weigh alike."""

from __future__ import annotations

from itertools import pairwise

import torch

from cope_cli.world.words import vocabulary
from recipes.cope_tiny.model import SIZE_PX, build_tiny_videolm

#: Most parameters and bytes that the package may carry.
MOST_PARAMETERS, MOST_BYTES = 10_000_000, 20_000_000


def root_mean_square(values: torch.Tensor) -> float:
    return float(values.float().square().mean().sqrt())


@torch.no_grad()
def test_words_visual_tokens_and_what_a_layer_adds_are_of_like_size() -> None:
    model, tokenizer = build_tiny_videolm(vocabulary(), delta_encoder=True)
    language_model = model.base.model.language_model
    words = language_model.embed_tokens(torch.tensor([tokenizer("Which way does the red circle move?")["input_ids"]]))
    generator = torch.Generator().manual_seed(0)
    seen = model.pooled_tokens(torch.randn((2, model.patches_per_side**2, 128), generator=generator))
    sizes = [root_mean_square(values) for values in (words, seen, model.base.model.image_newline)]
    assert max(sizes) < 2 * min(sizes)
    inputs = torch.cat([seen.flatten(0, 1)[None], words], 1)
    hidden = language_model(inputs_embeds=inputs, output_hidden_states=True).hidden_states
    for before, after in pairwise(hidden[:-1]):  # the last one is normalised
        assert root_mean_square(after - before) < root_mean_square(before)


def test_it_is_small_enough_to_be_shipped() -> None:
    model, _ = build_tiny_videolm(vocabulary(), delta_encoder=True)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters < MOST_PARAMETERS
    assert 2 * num_parameters < MOST_BYTES  # in bfloat16
    assert model.vision_size_px == SIZE_PX


@torch.no_grad()
def test_a_fresh_patch_looks_at_itself_and_then_at_its_neighbours() -> None:
    model, _ = build_tiny_videolm(vocabulary())
    tower = model.base.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    side, patch = model.patches_per_side, 5 * model.patches_per_side + 9
    layer = tower.encoder.layers[0]
    places = layer.layer_norm1(tower.embeddings.position_embedding.weight)
    queries, keys = layer.self_attn.q_proj(places[patch]), layer.self_attn.k_proj(places)
    likes = (keys @ queries).reshape(side, side)
    away = (torch.arange(side)[:, None] - 5).abs() + (torch.arange(side)[None] - 9).abs()
    assert likes[away == 0] == likes.max()
    assert likes[away == 1].mean() > 2 * likes[away > 4].mean()
