"""Published checkpoints: every layout gives the same numbers, and whatever is not understood is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import (
    ERAS,
    FLAT_7B,
    make_base,
    tensors_of,
    write_hf,
    write_llava,
    write_pieces,
    write_weights,
)
from safetensors.torch import load_file

from cope_cli.codec.colour import resize_for_vision
from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.checkpoint.base import expected_tensors, load_base, own_dtype
from cope_cli.model.checkpoint.folders import load_videolm, save_delta_encoder, save_videolm, vision_tower_sha256
from cope_cli.model.checkpoint.published import HF_PREFIXES, LLAVA_PREFIXES, llava_config, read_base
from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig
from cope_cli.model.token_plan import TokenKind
from cope_cli.model.videolm import VideoLM

MakeBatch = Callable[..., VideoLMBatch]
FRAMES = [([5, 6], "II", [7, 8, 9]), ([5], "I", [7])]
HF_ERAS = [era for era in ERAS if era != "llava"]


def logits(model: VideoLM, make_batch: MakeBatch, rows: Any = FRAMES) -> torch.Tensor:
    with torch.no_grad():
        return model(make_batch(model, rows, labels=None)).logits


def small_encoder(width: int = 16) -> DeltaEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        sizes = {"grid_px": 32, "width": 12, "depth": 1, "heads": 2, "out_width": width, "trunk_width": 4}
        return DeltaEncoder(DeltaEncoderConfig(**sizes)).eval()


@pytest.fixture(scope="module")
def base() -> Any:
    return make_base()


@pytest.fixture
def llava(base: Any, tmp_path: Path) -> Path:
    return write_llava(base, tmp_path / "llava")


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("model_type", ["llava", "qwen2", "llava_qwen"])
def test_the_original_layout_gives_the_same_logits(
    base: Any, tmp_path: Path, make_batch: MakeBatch, model_type: str, num_shards: int
) -> None:
    folder = write_llava(base, tmp_path / "model", model_type=model_type, num_shards=num_shards)
    loaded = load_videolm(folder)
    assert torch.equal(logits(loaded.model, make_batch), logits(VideoLM(base, None), make_batch))
    assert (loaded.layout, loaded.fusion_frames, loaded.notes, loaded.folder) == ("llava", None, (), folder)
    assert loaded.model.delta_encoder is None
    assert not loaded.model.training
    assert loaded.model.token_costs.rgb == 3 * 4  # 5 x 5 patches, pooled to 3 x 3, and 3 newlines
    assert loaded.vision_sha256 == vision_tower_sha256(loaded.model)


@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize("era", HF_ERAS)
def test_every_era_of_transformers_gives_the_same_logits(
    base: Any, tmp_path: Path, make_batch: MakeBatch, era: str, num_shards: int
) -> None:
    loaded = load_videolm(write_hf(base, tmp_path / "model", era, num_shards=num_shards))
    assert torch.equal(logits(loaded.model, make_batch), logits(VideoLM(base, None), make_batch))
    assert (loaded.layout, loaded.fusion_frames) == ("llava-hf", None)
    assert "Finetune it" in loaded.notes[0]
    assert loaded.vision_sha256 == vision_tower_sha256(loaded.model)


def test_what_transformers_writes_today_gives_the_same_logits(base: Any, tmp_path: Path, make_batch: MakeBatch) -> None:
    folder = tmp_path / "model"
    base.save_pretrained(folder)
    from layouts import write_tokenizer

    write_tokenizer(folder)
    assert set(load_file(folder / "model.safetensors")) == set(tensors_of(base, "hf-5.23"))
    loaded = load_videolm(folder)
    assert torch.equal(logits(loaded.model, make_batch), logits(VideoLM(base, None), make_batch))


def test_a_tower_stored_whole_is_read_at_its_second_last_layer(tmp_path: Path, make_batch: MakeBatch) -> None:
    whole = make_base(vision_layers=3, feature_layer=-2)
    folder = write_llava(whole, tmp_path / "whole", num_tower_layers=3)
    loaded = load_videolm(folder).model
    assert torch.equal(logits(loaded, make_batch), logits(VideoLM(whole, None), make_batch))
    whole.model.vision_tower.encoder.layers = whole.model.vision_tower.encoder.layers[:2]
    whole.config.vision_feature_layer = -1
    whole.config.vision_config.num_hidden_layers = 2
    shortened = load_videolm(write_llava(whole, tmp_path / "shortened")).model
    assert torch.equal(logits(loaded, make_batch), logits(shortened, make_batch))


@pytest.mark.parametrize("num_stored", [0, 1, 4])
def test_another_number_of_vision_layers_is_refused(tmp_path: Path, num_stored: int) -> None:
    folder = write_llava(make_base(vision_layers=num_stored or 1), tmp_path / "model", num_tower_layers=3)
    if num_stored == 0:
        kept = {n: t for n, t in load_file(folder / "model.safetensors").items() if "vision_tower" not in n}
        write_weights(folder, kept)
    with pytest.raises(CheckpointError, match=rf"{num_stored} vision layers are stored; tower has 3.*2 or 3 expected"):
        load_videolm(folder)


def test_the_7b_model_has_as_many_tensors_and_parameters_as_were_published(tmp_path: Path) -> None:
    from transformers import LlavaOnevisionForConditionalGeneration

    config = llava_config(FLAT_7B, tmp_path, num_vision_layers=26)
    tensors = expected_tensors(config)
    assert len(tensors) == 765
    assert sum(tensor.numel() for tensor in tensors.values()) == 8_030_348_832
    parts = {
        "model.vision_tower.": (421, 397_747_744),
        "model.multi_modal_projector.": (4, 16_980_992),
        "model.image_newline": (1, 3_584),
        "model.language_model.": (338, 7_070_619_136),
        "lm_head.": (1, 544_997_376),
    }
    for prefix, expected in parts.items():
        found = [tensor.numel() for name, tensor in tensors.items() if name.startswith(prefix)]
        assert (len(found), sum(found)) == expected, prefix
    with torch.device("meta"):
        encoder = DeltaEncoder(DeltaEncoderConfig.preset("paper"))
        model = VideoLM(LlavaOnevisionForConditionalGeneration(config), encoder)
    assert sum(p.numel() for p in model.parameters()) == 8_030_348_832 + encoder.num_parameters()
    assert (model.vision_size_px, model.patches_per_side, model.context_tokens) == (384, 27, 32768)
    assert (model.token_costs.rgb, model.token_costs.delta) == (210, 10)
    assert config.text_config.rope_parameters["rope_theta"] == 1e6
    assert len(list(model._vision_layers())) == 26
    whole = llava_config(FLAT_7B, tmp_path, num_vision_layers=27)
    assert (whole.vision_feature_layer, whole.vision_config.num_hidden_layers) == (-2, 27)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
        ({"mm_projector_type": "absent"}, "mm_projector_type is None"),
        ({"mm_spatial_pool_mode": "average"}, "mm_spatial_pool_mode is 'average'"),
        ({"mm_newline_position": "no_token"}, "mm_newline_position is 'no_token'"),
        ({"mm_newline_position": "frame"}, "mm_newline_position is 'frame'"),
        ({"add_faster_video": True}, "add_faster_video is True"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature is 'cls_patch'"),
        ({"mm_vision_select_layer": -1}, "mm_vision_select_layer is -1"),
        ({"mm_resampler_type": "qformer"}, "mm_resampler_type is 'qformer'"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling is"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"hidden_size": "absent", "vocab_size": "absent"}, r"missing: 2 \(vocab_size, hidden_size\)"),
        ({"rope_theta": "absent"}, r"missing: 1 \(rope_theta\)"),
        ({"hidden_size": "many"}, "config.json cannot be read"),
        ({"mm_hidden_size": 1152}, "mm_hidden_size is 1152, tower has 16"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "neither a tower that cope knows"),
        ({"mm_vision_tower": "../other"}, "'../other': neither"),
        ({"mm_vision_tower": "absent"}, "mm_vision_tower is None"),
        ({"architectures": ["LlavaLlamaForCausalLM"]}, r"architectures is \['LlavaLlamaForCausalLM'\]"),
        ({"architectures": "absent"}, "model_type is 'llava'; expected"),
    ],
    ids=str,
)
def test_a_model_that_cope_would_compute_otherwise_is_refused(
    base: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_llava(base, tmp_path / "other")
    folder = write_llava(base, tmp_path / "model", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_videolm(folder)
    assert str(folder) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("position", ["one_token", "absent"])
def test_a_model_trained_with_one_newline_is_loaded_with_a_note(base: Any, tmp_path: Path, position: str) -> None:
    (note,) = load_videolm(write_llava(base, tmp_path / "model", mm_newline_position=position)).notes
    assert "single newline at the end" in note


def test_fields_that_may_be_absent_mean_what_llava_takes_them_for(
    base: Any, tmp_path: Path, make_batch: MakeBatch
) -> None:
    names = ("mm_spatial_pool_mode", "mm_vision_select_feature", "mm_vision_select_layer", "add_faster_video")
    folder = write_llava(base, tmp_path / "model", **dict.fromkeys((*names, "tie_word_embeddings"), "absent"))
    assert torch.equal(logits(load_videolm(folder).model, make_batch), logits(VideoLM(base, None), make_batch))


def test_a_tower_is_known_by_the_end_of_a_path_and_never_read_outside_the_folder(base: Any, tmp_path: Path) -> None:
    config = llava_config(
        {**FLAT_7B, "mm_vision_tower": "/data/towers/siglip-so400m-patch14-384"}, tmp_path, num_vision_layers=26
    )
    assert config.vision_config.hidden_size == 1152
    outside = write_llava(base, tmp_path / "outside")
    folder = write_llava(base, tmp_path / "model", mm_vision_tower=str(outside / "tower"))
    with pytest.raises(CheckpointError, match="neither a tower that cope knows"):
        load_videolm(folder)
    (folder / "link").symlink_to(outside / "tower")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "mm_vision_tower": "link"}))
    with pytest.raises(CheckpointError, match=r"nor a folder with a config.json inside"):
        load_videolm(folder)


@pytest.mark.parametrize("era", list(ERAS))
def test_missing_unexpected_and_misshapen_tensors_are_named_and_counted(base: Any, tmp_path: Path, era: str) -> None:
    folder = write_llava(base, tmp_path / "m") if era == "llava" else write_hf(base, tmp_path / "m", era)
    whole = tensors_of(base, era)
    text, vision, first, *_ = ERAS[era]
    gone, odd = f"{vision}encoder.layers.1.mlp.fc1.bias", f"{first}weight"
    write_weights(folder, {name: tensor for name, tensor in whole.items() if name != gone})
    with pytest.raises(CheckpointError, match=rf"missing: 1 \({gone}\); {len(whole)} tensors expected") as caught:
        load_videolm(folder)
    assert str(folder) in caught.value.message
    write_weights(folder, {**whole, f"{text}layers.7.extra": torch.zeros(2), "faster_token": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=rf"unexpected: 2 \(faster_token, {text}layers.7.extra\)"):
        load_videolm(folder)
    write_weights(folder, {**whole, odd: torch.zeros(7, 3)})
    with pytest.raises(CheckpointError, match=rf"other shape: 1 \({odd} has shape \[7, 3\], \[32, 16\] expected\)"):
        load_videolm(folder)
    write_weights(folder, {**whole, odd: whole[odd].to(torch.float64)})
    with pytest.raises(CheckpointError, match=rf"other type: 1 \({odd}: F64\)"):
        load_videolm(folder)


def test_a_name_of_transformers_in_the_original_layout_is_unexpected(base: Any, llava: Path) -> None:
    tensors = tensors_of(base, "llava")
    tensors["model.language_model.norm.weight"] = tensors.pop("model.norm.weight")
    write_weights(llava, tensors)
    message = r"missing: 1 \(model.norm.weight\); unexpected: 1 \(model.language_model.norm.weight\)"
    with pytest.raises(CheckpointError, match=message):
        load_videolm(llava)


def test_two_spellings_of_one_tensor_are_refused(base: Any, tmp_path: Path) -> None:
    folder = write_hf(base, tmp_path / "model", "hf-4.45")
    both = {**tensors_of(base, "hf-4.45"), "model.image_newline": base.model.image_newline.detach()}
    write_weights(folder, both)
    with pytest.raises(CheckpointError, match=r"image_newline and model.image_newline are the same tensor"):
        load_videolm(folder)


@pytest.mark.parametrize("era", ["llava", "hf-4.45"])
def test_rotary_buffers_of_old_versions_are_passed_over(
    base: Any, tmp_path: Path, make_batch: MakeBatch, era: str
) -> None:
    folder = write_llava(base, tmp_path / "m") if era == "llava" else write_hf(base, tmp_path / "m", era)
    old = {f"{ERAS[era][0]}layers.{i}.self_attn.rotary_emb.inv_freq": torch.rand(4) for i in range(2)}
    write_weights(folder, {**tensors_of(base, era), **old})
    assert torch.equal(logits(load_videolm(folder).model, make_batch), logits(VideoLM(base, None), make_batch))


@pytest.mark.parametrize("era", ["llava", "hf-4.52"])
def test_a_tied_head_may_be_stored_but_must_be_the_embedding(tmp_path: Path, make_batch: MakeBatch, era: str) -> None:
    tied = make_base(is_tied=True)
    folder = write_llava(tied, tmp_path / "m") if era == "llava" else write_hf(tied, tmp_path / "m", era)
    expected = logits(VideoLM(tied, None), make_batch)
    loaded = load_videolm(folder)
    assert torch.equal(logits(loaded.model, make_batch), expected)
    tensors = {**tensors_of(tied, era), ERAS[era][-1]: tied.lm_head.weight.detach().clone()}
    write_weights(folder, tensors)
    both = load_videolm(folder).model
    assert torch.equal(logits(both, make_batch), expected)
    assert both.base.lm_head.weight is both.base.get_input_embeddings().weight
    save_videolm(loaded.model, loaded.tokenizer, tmp_path / "ours", fusion_frames=30)
    assert torch.equal(logits(load_videolm(tmp_path / "ours").model, make_batch), expected)
    tensors[ERAS[era][-1]][0, 0] += 1
    write_weights(folder, tensors)
    with pytest.raises(CheckpointError, match=r"ties .*lm_head.weight to .*embed_tokens.weight, but they differ"):
        load_videolm(folder)


def test_a_published_model_saved_by_cope_is_in_its_own_layout(
    base: Any, llava: Path, tmp_path: Path, make_batch: MakeBatch
) -> None:
    loaded = load_videolm(llava)
    save_videolm(loaded.model, loaded.tokenizer, tmp_path / "ours", fusion_frames=30)
    assert set(load_file(tmp_path / "ours" / "model.safetensors")) == set(tensors_of(base, "hf-5.23"))
    again = load_videolm(tmp_path / "ours")
    assert (again.layout, again.notes, again.vision_sha256) == ("cope", (), loaded.vision_sha256)
    assert torch.equal(logits(again.model, make_batch), logits(VideoLM(base, None), make_batch))


def test_pickled_weights_are_never_read(llava: Path) -> None:
    (llava / "model.safetensors").rename(llava / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickled weights only \(1 \(pytorch_model.bin\)\)") as caught:
        load_videolm(llava)
    assert "safetensors" in caught.value.hint


def test_a_shard_that_is_gone_or_leads_elsewhere_is_named(base: Any, tmp_path: Path) -> None:
    folder = write_llava(base, tmp_path / "model", num_shards=3)
    shard, index = folder / "model-00002-of-00003.safetensors", folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    name = sorted(values["weight_map"])[0]
    index.write_text(json.dumps({"weight_map": {**values["weight_map"], name: shard.name}}))
    with pytest.raises(CheckpointError, match=rf"00001-of-00003.safetensors: .*unexpected: 1 \({name}\)"):
        load_videolm(folder)
    index.write_text(json.dumps({"weight_map": {**values["weight_map"], name: "../other.safetensors"}}))
    with pytest.raises(CheckpointError, match="no weight_map of names to files in this folder"):
        load_videolm(folder)
    index.write_text(json.dumps(values))
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} cannot be read"):
        load_videolm(folder)


def test_partial_or_foreign_folders_are_refused(base: Any, tmp_path: Path) -> None:
    folder = write_hf(base, tmp_path / "model", "native")
    values = json.loads((folder / "config.json").read_text())

    def rewrite(part: str, **changes: Any) -> None:
        changed = {k: v for k, v in {**values[part], **changes}.items() if v is not None}
        (folder / "config.json").write_text(json.dumps({**values, part: changed}))

    rewrite("text_config", rope_theta=None, num_attention_heads=None)
    with pytest.raises(CheckpointError, match=r"missing: 2 \(text_config.num_attention_heads, text_config.rope_theta"):
        load_videolm(folder)
    rewrite("text_config", model_type="llama")
    with pytest.raises(CheckpointError, match=r"text_config.model_type is 'llama'"):
        load_videolm(folder)
    (folder / "config.json").write_text(json.dumps({**values, "vision_feature_select_strategy": "default"}))
    with pytest.raises(CheckpointError, match="vision_feature_select_strategy is 'default'"):
        load_videolm(folder)
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "delta_encoder.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"holds delta_encoder.safetensors, but no cope.json"):
        load_videolm(folder)
    (folder / "delta_encoder.safetensors").unlink()
    (folder / "adapter_config.json").touch()
    with pytest.raises(CheckpointError, match="LoRA adapter"):
        load_videolm(folder)


def test_a_tokenizer_in_pieces_is_put_together(llava: Path) -> None:
    text = "What happens to the red circle? 視"
    expected = load_videolm(llava).tokenizer(text)["input_ids"]
    write_pieces(llava)
    tokenizer = load_videolm(llava).tokenizer
    assert tokenizer(text)["input_ids"] == expected
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 1062
    assert tokenizer("<|im_end|>", split_special_tokens=True, add_special_tokens=False)["input_ids"] != [1062]
    (llava / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"merges.txt is missing"):
        load_videolm(llava)


def erf_gelu(values: np.ndarray) -> np.ndarray:
    return values * (1 + np.vectorize(math.erf)(values / math.sqrt(2))) / 2


def pooled_slowly(grid: np.ndarray, side: int) -> np.ndarray:
    """Bilinear samples at the centres of `side` x `side` cells; (H, W, D) to (side, side, D), one number at a time."""
    size = len(grid)
    out = np.empty((side, side, grid.shape[2]))
    for row in range(side):
        for col in range(side):
            at = [max((place + 0.5) * size / side - 0.5, 0) for place in (row, col)]
            (top, left), (down, right) = [int(p) for p in at], [min(int(p) + 1, size - 1) for p in at]
            y, x = at[0] - top, at[1] - left
            upper = grid[top, left] * (1 - x) + grid[top, right] * x
            lower = grid[down, left] * (1 - x) + grid[down, right] * x
            out[row, col] = upper * (1 - y) + lower * y
    return out


def test_features_are_those_of_a_slow_independent_computation(tmp_path: Path, make_batch: MakeBatch) -> None:
    """A narrow tower of SigLIP's geometry: 384 px, patches of 14, 27 x 27, of which the last layer is not stored."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    base = make_base(image_px=384, patch_px=14, vision_layers=3)
    sizes = base.config.vision_config.to_dict() | {"num_hidden_layers": 4, "vision_use_head": True}
    whole = SiglipVisionModel(SiglipVisionConfig(**{k: v for k, v in sizes.items() if k != "model_type"})).eval()
    for name, tensor in base.model.vision_tower.state_dict().items():
        whole.state_dict()[name].copy_(tensor)
    loaded = load_videolm(write_llava(base, tmp_path / "model")).model
    batch = make_batch(loaded, [([], "I", [])], labels=None)
    pixels = batch.rgb.numpy()[0].transpose(2, 0, 1) / np.float32(127.5) - 1
    with torch.no_grad():
        states = whole(torch.from_numpy(pixels)[None], output_hidden_states=True).hidden_states
        assert len(states) == 5
        found = loaded.embed(batch)[0].numpy()
        bare = loaded.rgb_tokens(batch.rgb)[0].numpy()
    features = states[-2][0].numpy().astype(np.float64)
    assert features.shape == (729, 16)
    weights = {name: tensor.double().numpy() for name, tensor in base.model.multi_modal_projector.state_dict().items()}
    hidden = erf_gelu(features @ weights["linear_1.weight"].T + weights["linear_1.bias"])
    projected = hidden @ weights["linear_2.weight"].T + weights["linear_2.bias"]
    pooled = pooled_slowly(projected.reshape(27, 27, -1), 14)
    assert found.shape == (210, 32)
    rows = found.reshape(14, 15, 32)
    np.testing.assert_allclose(rows[:, :14], pooled, atol=2e-5)
    np.testing.assert_allclose(bare.reshape(14, 14, 32), pooled, atol=2e-5)
    newline = base.model.image_newline.detach().numpy()
    assert (rows[:, 14] == newline).all()


def test_preprocessing_is_siglips(tmp_path: Path) -> None:
    """Pillow's bicubic resize when a frame is stored, scaling when it is read; SigLIP's processor beside it."""
    from transformers import SiglipImageProcessor

    random = np.random.default_rng(0)
    smooth = np.kron(random.integers(0, 256, (12, 17, 3)), np.ones((30, 40, 1)))
    picture = np.clip(smooth + random.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    processor = SiglipImageProcessor(size={"height": 384, "width": 384})
    assert {*processor.image_mean, *processor.image_std} == {0.5}
    expected = processor(images=picture, return_tensors="pt").pixel_values[0]

    model = VideoLM(make_base(image_px=384, patch_px=14), None)
    seen: list[torch.Tensor] = []
    model.base.model.vision_tower.embeddings.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    with torch.no_grad():
        model.vision_tokens(torch.from_numpy(resize_for_vision(picture, 384).copy())[None])
    assert seen[0].shape == expected.shape == (3, 384, 384)
    difference = (seen[0] - expected).abs()
    assert difference.max() <= 2 / 255 + 1e-6  # 1/255 of the range [0, 1]
    assert difference.mean() < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_single(
    base: Any, llava: Path, tmp_path: Path, make_batch: MakeBatch, dtype: torch.dtype
) -> None:
    exact = logits(load_videolm(llava).model, make_batch)
    half = load_videolm(llava, dtype=dtype)
    assert {parameter.dtype for parameter in half.model.parameters()} == {dtype}
    found = logits(half.model, make_batch).float()
    assert found.isfinite().all()
    assert (found - exact).abs().mean() < 0.03 * exact.abs().mean()
    # Stored in half precision, a model stays so, and its vision tower is known by the same hash in any wider type.
    write_weights(llava, {name: tensor.to(dtype) for name, tensor in tensors_of(base, "llava").items()})
    stored = load_videolm(llava)
    assert {parameter.dtype for parameter in stored.model.parameters()} == {dtype}
    assert own_dtype(read_base(llava)) == dtype
    wide = load_videolm(llava, dtype=torch.float32)
    assert vision_tower_sha256(wide.model) == stored.vision_sha256 == wide.vision_sha256


def test_a_delta_encoder_in_half_precision_runs(base: Any, llava: Path, tmp_path: Path, make_batch: MakeBatch) -> None:
    sha256 = load_videolm(llava).vision_sha256
    save_delta_encoder(small_encoder(), tmp_path / "delta", fusion_frames=15, vision_sha256=sha256)
    rows = [([5], "IPP", [7])]
    exact = logits(load_videolm(llava, delta_encoder=tmp_path / "delta").model, make_batch, rows)
    for dtype, part in ((torch.bfloat16, 0.06), (torch.float16, 0.01)):
        model = load_videolm(llava, dtype=dtype, delta_encoder=tmp_path / "delta").model
        found = logits(model, make_batch, rows).float()
        assert found.isfinite().all()
        assert (found - exact).abs().mean() < part * exact.abs().mean()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_can_be_chosen(llava: Path, make_batch: MakeBatch, attention: str) -> None:
    model = load_videolm(llava, attention=attention).model
    for config in (model.base.config, model.base.config.text_config, model.base.config.vision_config):
        assert config._attn_implementation == attention
    rows = FRAMES[:1]  # at padding positions the two may differ, and nothing reads them
    expected = logits(load_videolm(llava).model, make_batch, rows)
    torch.testing.assert_close(logits(model, make_batch, rows), expected, atol=1e-4, rtol=1e-4)


def test_flash_attention_that_is_not_there_says_what_to_install(llava: Path) -> None:
    from transformers.utils import is_flash_attn_2_available

    if is_flash_attn_2_available():
        pytest.skip("flash-attn is installed here")
    with pytest.raises(UsageError, match="needs a CUDA device and the package flash-attn") as caught:
        load_videolm(llava, attention="flash_attention_2")
    assert "pip install flash-attn" in caught.value.hint
    with pytest.raises(UsageError, match="--attention magic: expected one of sdpa, eager"):
        load_videolm(llava, attention="magic")


PARTS = ["model.vision_tower", "model.multi_modal_projector", "model.image_newline", "model.language_model", "lm_head"]
DEVICE_MAPS: dict[str, Any] = {
    "auto": "auto",
    "vision on disk": {**dict.fromkeys(PARTS, "cpu"), "model.vision_tower": "disk"},
    "language model and head on disk": {
        **dict.fromkeys(PARTS, "cpu"),
        "model.language_model": "disk",
        "lm_head": "disk",
    },
    "newline on disk": {**dict.fromkeys(PARTS, "cpu"), "model.image_newline": "disk"},
    "one layer on disk": {
        "model.vision_tower": "cpu",
        "model.multi_modal_projector": "cpu",
        "model.image_newline": "cpu",
        "model.language_model.embed_tokens": "cpu",
        "model.language_model.rotary_emb": "cpu",
        "model.language_model.norm": "cpu",
        "model.language_model.layers.0": "cpu",
        "model.language_model.layers.1": "disk",
        "lm_head": "cpu",
    },
    "all on disk": {"model": "disk", "lm_head": "disk"},
}


@pytest.mark.parametrize("layout", ["llava", "hf-4.45"])
@pytest.mark.parametrize("device_map", DEVICE_MAPS.values(), ids=DEVICE_MAPS.keys())
def test_a_model_spread_over_memory_and_disk_gives_the_same_logits(
    base: Any, tmp_path: Path, make_batch: MakeBatch, layout: str, device_map: Any
) -> None:
    folder = write_llava(base, tmp_path / "m") if layout == "llava" else write_hf(base, tmp_path / "m", layout)
    rows = [([5], "IPP", [7, 8]), ([5], "P", [9])]
    sha256 = load_videolm(folder).vision_sha256
    save_delta_encoder(small_encoder(), tmp_path / "delta", fusion_frames=15, vision_sha256=sha256)
    together = load_videolm(folder, delta_encoder=tmp_path / "delta")
    spread = load_videolm(folder, device_map=device_map, delta_encoder=tmp_path / "delta")
    assert torch.equal(logits(spread.model, make_batch, rows), logits(together.model, make_batch, rows))
    assert spread.model.device == torch.device("cpu")
    assert spread.vision_sha256 == sha256
    batch = make_batch(spread.model, rows[:1], labels=None)
    for _ in range(2):  # a second answer needs everything the first one did
        answer = spread.model.generate(batch, max_new_tokens=3)
        assert torch.equal(answer, together.model.generate(batch, max_new_tokens=3))
    for number in (0, 1):  # with labels, and with nothing to see in the second
        asked = make_batch(spread.model, [([5], "IP", [7, 8]), ([5], "", [9, 3])][number : number + 1])
        with torch.no_grad():
            assert spread.model(asked).loss == together.model(asked).loss


def test_hooks_of_accelerate_change_nothing(base: Any, llava: Path, make_batch: MakeBatch) -> None:
    from accelerate import dispatch_model

    hooked = load_videolm(llava)
    dispatch_model(hooked.model.base, {"": "cpu"}, force_hooks=True)
    assert hasattr(hooked.model.base.get_input_embeddings(), "_hf_hook")
    assert torch.equal(logits(hooked.model, make_batch), logits(VideoLM(base, None), make_batch))
    assert hooked.model.device == torch.device("cpu")


def test_an_unknown_device_map_is_refused(llava: Path) -> None:
    with pytest.raises(UsageError, match="--device-map everywhere: expected one of auto"):
        load_videolm(llava, device_map="everywhere")


def test_too_little_memory_is_said_in_words(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nmore")

    monkeypatch.setattr(VideoLM, "to", fail)
    with pytest.raises(UsageError, match="memory is too small: CUDA out of memory") as caught:
        load_videolm(llava)
    assert "--device-map auto" in caught.value.hint


def test_a_named_delta_encoder_serves_a_base_model(
    base: Any, llava: Path, tmp_path: Path, make_batch: MakeBatch
) -> None:
    encoder, folder = small_encoder(), tmp_path / "delta"
    save_delta_encoder(encoder, folder, fusion_frames=15, vision_sha256=load_videolm(llava).vision_sha256)
    loaded = load_videolm(llava, delta_encoder=folder)
    assert loaded.fusion_frames == 15
    rows = [([5], "IPP", [7])]
    assert torch.equal(logits(loaded.model, make_batch, rows), logits(VideoLM(base, encoder), make_batch, rows))
    save_videolm(VideoLM(base, encoder), loaded.tokenizer, tmp_path / "ours", fusion_frames=30)
    replaced = load_videolm(tmp_path / "ours", delta_encoder=folder)
    assert (replaced.fusion_frames, replaced.layout) == (15, "cope")


@pytest.mark.parametrize(("width", "sha256"), [(16, "ab" * 32), (24, None)])
def test_a_delta_encoder_of_another_tower_is_refused_by_both_names(
    llava: Path, tmp_path: Path, width: int, sha256: str | None
) -> None:
    folder = tmp_path / "delta"
    save_delta_encoder(
        small_encoder(width), folder, fusion_frames=15, vision_sha256=sha256 or load_videolm(llava).vision_sha256
    )
    expected = "token width 24, 16 needed" if sha256 is None else "vision tower abababababab, .* needed"
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_videolm(llava, delta_encoder=folder)
    assert str(folder) in caught.value.message
    assert str(llava) in caught.value.message


def test_no_prefix_hides_a_longer_one() -> None:
    """The first that fits is taken: one that begins another must stand after it."""
    for prefixes in (list(LLAVA_PREFIXES), list(HF_PREFIXES)):
        for place, prefix in enumerate(prefixes):
            assert not [other for other in prefixes[place + 1 :] if other.startswith(prefix)]


def test_loading_the_base_alone_reports_nothing_on_the_screen(llava: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_base(read_base(llava), dtype=None, device_map=None, attention="sdpa")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_delta_positions_are_untouched_by_the_base(llava: Path, make_batch: MakeBatch) -> None:
    model = load_videolm(llava).model
    batch = make_batch(model, [([5], "P", [])])
    assert int((batch.token_kind == TokenKind.DELTA).sum()) == 8
    with pytest.raises(CheckpointError, match="has no Delta-encoder"):
        model(batch)
