"""Geometries: published numbers, and modules that have them."""

from __future__ import annotations

import pytest
import torch

from cope_cli.errors import UsageError
from cope_cli.model.kv_cache import cache_option
from cope_cli.model.sizes.geometry import GEOMETRIES, base_config, build_geometry, find_geometry
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.model.videolm import VideoLM


def base_tensors(model: VideoLM) -> dict[str, int]:
    return {name: parameter.numel() for name, parameter in model.base.named_parameters()}


def test_7b_has_the_tensors_of_the_published_checkpoint() -> None:
    model = build_geometry(GEOMETRIES["7b"], dtype=torch.bfloat16, device="meta")
    sizes = base_tensors(model)
    assert (len(sizes), sum(sizes.values())) == (765, 8_030_348_832)
    parts = {
        "model.vision_tower": (421, 397_747_744),
        "model.multi_modal_projector": (4, 16_980_992),
        "model.image_newline": (1, 3584),
        "model.language_model": (338, 7_070_619_136),
        "lm_head": (1, 544_997_376),
    }
    for prefix, expected in parts.items():
        found = [size for name, size in sizes.items() if name.startswith(prefix)]
        assert (len(found), sum(found)) == expected, prefix


@pytest.mark.parametrize("name", GEOMETRIES)
def test_parameters_and_tokens_are_worked_out_without_a_model(name: str) -> None:
    geometry = find_geometry(name)
    model = build_geometry(geometry, dtype=torch.bfloat16, device="meta")
    assert sum(base_tensors(model).values()) == geometry.num_parameters
    assert model.token_costs == geometry.costs
    assert (model.vision_size_px, model.patches_per_side**2) == (geometry.image_px, geometry.num_patches)


def test_tiny_is_the_small_model() -> None:
    small = build_small_videolm()[0]
    found = build_geometry(GEOMETRIES["tiny"], dtype=torch.float32)
    expected, config = small.base.config.to_dict(), base_config(GEOMETRIES["tiny"]).to_dict()
    for settings in (expected, config, expected["text_config"], config["text_config"]):
        for key in ("image_token_index", "video_token_index", "eos_token_id", "pad_token_id", "initializer_range"):
            settings.pop(key, None)
    assert config == expected
    assert found.delta_encoder is not None and small.delta_encoder is not None
    assert found.delta_encoder.config == small.delta_encoder.config
    for (name, buffer), (other, own) in zip(small.named_buffers(), found.named_buffers(), strict=True):
        assert name == other and torch.equal(buffer, own)


def test_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_geometry(GEOMETRIES["tiny"], dtype=torch.bfloat16, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    again = build_geometry(GEOMETRIES["tiny"], dtype=torch.bfloat16, seed=3)
    other = build_geometry(GEOMETRIES["tiny"], dtype=torch.bfloat16, seed=4)
    for (name, one), two in zip(first.named_parameters(), again.parameters(), strict=True):
        assert one.dtype == torch.bfloat16 and torch.equal(one, two), name
    assert not torch.equal(first.base.lm_head.weight, other.base.lm_head.weight)
    rotary = first.base.model.language_model.rotary_emb
    assert rotary.inv_freq.dtype == torch.float32 and rotary.inv_freq[0] == 1


def test_tied_weights_are_one_tensor() -> None:
    tied = build_geometry(GEOMETRIES["0.5b"], dtype=torch.bfloat16, device="meta").base
    assert tied.lm_head.weight is tied.get_input_embeddings().weight
    untied = build_geometry(GEOMETRIES["tiny"], dtype=torch.float32).base
    assert untied.lm_head.weight is not untied.get_input_embeddings().weight


def test_an_unknown_geometry_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"--geometry 3b: expected one of tiny, 0\.5b, 7b, 72b"):
        find_geometry("3b")


def test_layers_that_share_weights_compute_what_equal_layers_do() -> None:
    """As with a copy of the first layer's weights in every layer, key-value cache and all."""
    geometry = GEOMETRIES["tiny"]
    shared = build_geometry(geometry, dtype=torch.float32, shares_layers=True)
    full = build_geometry(geometry, dtype=torch.float32)
    full.load_state_dict(shared.state_dict())
    num_full, num_shared = (sum(p.numel() for p in model.parameters()) for model in (full, shared))
    assert num_full - num_shared == (geometry.num_layers - 1) * geometry.num_layer_parameters
    prefix, suffix = torch.randn(1, 6, geometry.width), torch.randn(1, 2, geometry.width)
    hidden = []
    for model in (full, shared):
        language_model = model.base.model.language_model
        keep = cache_option(model.new_cache())
        language_model(inputs_embeds=prefix, **keep)
        hidden.append(language_model(inputs_embeds=suffix, **keep).last_hidden_state)
    assert torch.equal(*hidden)
    whole = shared.base.model.language_model(inputs_embeds=torch.cat([prefix, suffix], 1)).last_hidden_state
    torch.testing.assert_close(hidden[0], whole[:, -2:])
