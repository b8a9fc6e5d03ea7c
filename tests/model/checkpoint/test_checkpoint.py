"""Checkpoints: what comes back is what was saved, and anything else is an error that names the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cope_cli.errors import CheckpointError, PathNotFoundError
from cope_cli.model.alignment import Alignment, AlignmentConfig
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.checkpoint.folders import (
    load_delta_encoder,
    load_videolm,
    save_delta_encoder,
    save_videolm,
    vision_tower_sha256,
)
from cope_cli.model.delta_encoder import DeltaEncoder
from cope_cli.model.sizes.small import build_small_tokenizer, build_small_videolm
from cope_cli.model.videolm import VideoLM

MakeBatch = Callable[..., VideoLMBatch]
ROWS = [([5, 6], "IPP", [7, 8, 9])]


@pytest.fixture(scope="module")
def small() -> tuple[VideoLM, Any]:
    return build_small_videolm(grid_px=32)


@pytest.fixture
def saved(small: tuple[VideoLM, Any], tmp_path: Path) -> Path:
    save_videolm(*small, tmp_path / "model", fusion_frames=30)
    return tmp_path / "model"


def edit_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**values, **changes}.items() if v != "remove"}))


def edit_tensors(path: Path, change: Callable[[dict[str, Any], str], Any]) -> None:
    tensors = load_file(path)
    change(tensors, sorted(tensors)[3])
    save_file(tensors, path, metadata={"format": "pt"})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_logits_and_answers_survive_bit_by_bit(small: tuple[VideoLM, Any], saved: Path, make_batch: MakeBatch) -> None:
    model, tokenizer = small
    loaded = load_videolm(saved)
    batch = make_batch(model, ROWS, labels=None)
    with torch.no_grad():
        assert torch.equal(loaded.model(batch).logits, model(batch).logits)
    assert torch.equal(loaded.model.generate(batch, max_new_tokens=4), model.generate(batch, max_new_tokens=4))
    text = "<|im_start|>user\nwhat's  up, 視?<|im_end|>\n"
    assert loaded.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.tokenizer.chat_template == tokenizer.chat_template
    assert (loaded.fusion_frames, loaded.folder) == (30, saved)
    assert loaded.vision_sha256 == vision_tower_sha256(model) == vision_tower_sha256(loaded.model)
    assert not loaded.model.training


def test_whoever_may_read_the_folder_may_read_its_files(saved: Path) -> None:
    may_read = saved.stat().st_mode & 0o444
    assert {file.name: file.stat().st_mode & 0o444 for file in saved.iterdir()} == {
        file.name: may_read for file in saved.iterdir()
    }
    assert "model.safetensors" in {file.name for file in saved.iterdir()}


def test_plain_transformers_loads_the_same_folder(small: tuple[VideoLM, Any], saved: Path) -> None:
    from transformers import LlavaOnevisionForConditionalGeneration

    base, info = LlavaOnevisionForConditionalGeneration.from_pretrained(saved, output_loading_info=True)
    assert {kind: list(found) for kind, found in info.items() if found} == {}
    expected = small[0].base.state_dict()
    assert [name for name, tensor in base.state_dict().items() if not torch.equal(tensor, expected[name])] == []


def test_the_type_of_the_weights_survives_and_can_be_chosen(small: tuple[VideoLM, Any], tmp_path: Path) -> None:
    model = build_small_videolm(grid_px=32)[0].bfloat16()
    save_videolm(model, small[1], tmp_path / "half", fusion_frames=30)
    kept = load_videolm(tmp_path / "half").model
    assert {parameter.dtype for parameter in kept.parameters()} == {torch.bfloat16}
    assert torch.equal(kept.base.lm_head.weight, model.base.lm_head.weight)
    wide = load_videolm(tmp_path / "half", dtype=torch.float32).model
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}


def test_a_model_without_delta_encoder_survives(small: tuple[VideoLM, Any], tmp_path: Path) -> None:
    save_videolm(VideoLM(small[0].base, None), small[1], tmp_path / "plain", fusion_frames=30)
    assert load_videolm(tmp_path / "plain").model.delta_encoder is None
    assert not (tmp_path / "plain" / "delta_encoder.safetensors").exists()


def test_weights_gathered_elsewhere_are_the_ones_saved(small: tuple[VideoLM, Any], tmp_path: Path) -> None:
    model, tokenizer = small
    gathered = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    save_videolm(model, tokenizer, tmp_path / "gathered", fusion_frames=30, state_dict=gathered)
    loaded = load_videolm(tmp_path / "gathered")
    found = loaded.model.state_dict()
    assert [name for name, tensor in gathered.items() if not torch.equal(tensor, found[name])] == []
    assert loaded.vision_sha256 == vision_tower_sha256(loaded.model) != vision_tower_sha256(model)


@pytest.mark.parametrize("file", ["model.safetensors", "delta_encoder.safetensors"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: edit_tensors(path, lambda t, name: t.pop(name)), "missing"),
        (
            lambda path: edit_tensors(path, lambda t, _: t.update(more=torch.zeros(2))),
            "unexpected.*more|more.*unexpected",
        ),
        (lambda path: edit_tensors(path, lambda t, name: t.update({name: torch.zeros(7)})), r"mismatched|has shape"),
        (truncate, "cannot be read"),
        (Path.unlink, "cannot be read"),
    ],
    ids=["missing key", "extra key", "other shape", "truncated", "gone"],
)
def test_damaged_weights_are_refused(saved: Path, file: str, change: Callable[[Path], Any], message: str) -> None:
    change(saved / file)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_videolm(saved)
    assert str(saved) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("cope.json", {"format_version": 2}, "format_version 2 found, 1 expected"),
        ("cope.json", {"kind": "delta_encoder"}, "kind 'delta_encoder' found, 'videolm' expected"),
        ("cope.json", {"fusion_frames": "remove"}, r"1 \(fusion_frames\) missing"),
        ("cope.json", {"more": 1}, r"1 \(more\) unexpected"),
        ("cope.json", {"delta_encoder": {"width": 3}}, "missing fields"),
        ("cope.json", {"delta_encoder": None}, "says it has none"),
        ("config.json", {"model_type": "llava"}, "model_type is 'llava'"),
        ("config.json", {"text_config": "remove"}, "cannot be read"),
    ],
)
def test_another_description_is_refused(saved: Path, file: str, changes: dict[str, Any], message: str) -> None:
    edit_json(saved / file, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_videolm(saved)
    assert str(saved) in caught.value.message


@pytest.mark.parametrize("file", ["cope.json", "config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("change", [Path.unlink, truncate], ids=["gone", "truncated"])
def test_a_damaged_json_file_is_refused(saved: Path, file: str, change: Callable[[Path], Any]) -> None:
    change(saved / file)
    with pytest.raises(CheckpointError, match=file.split("_")[0].split(".")[0]):
        load_videolm(saved)


def test_a_loaded_model_ends_its_answers_at_the_tokenizers_end_of_turn(saved: Path) -> None:
    edit_json(saved / "generation_config.json", eos_token_id=7, pad_token_id=7)
    loaded = load_videolm(saved)
    settings = loaded.model.base.generation_config
    assert (settings.eos_token_id, settings.pad_token_id) == (1062, 1060)


def test_a_missing_folder_and_a_foreign_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError, match="no such folder"):
        load_videolm(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="not a checkpoint of cope"):
        load_videolm(tmp_path)


def test_a_tokenizer_that_does_not_fit_is_refused_before_anything_is_written(
    small: tuple[VideoLM, Any], tmp_path: Path
) -> None:
    tokenizer = build_small_tokenizer()
    tokenizer.add_tokens(["<more>"])
    with pytest.raises(CheckpointError, match="1065 tokens, the model 1064 embeddings"):
        save_videolm(small[0], tokenizer, tmp_path / "model", fusion_frames=30)
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_the_old_checkpoint(
    small: tuple[VideoLM, Any], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_videolm(*small, saved, fusion_frames=10)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]
    assert load_videolm(saved).fusion_frames == 30


def test_the_vision_hash_sees_one_changed_number(tiny: Callable[..., VideoLM]) -> None:
    model, other = tiny(), tiny()
    assert vision_tower_sha256(model) == vision_tower_sha256(other)
    with torch.no_grad():
        next(other.vision_parameters()).view(-1)[0] += 1e-3
        model.base.lm_head.weight += 1
    assert vision_tower_sha256(model) == vision_tower_sha256(tiny())
    assert vision_tower_sha256(model) != vision_tower_sha256(other)


@pytest.mark.parametrize("with_alignment", [True, False])
def test_a_pre_trained_delta_encoder_survives(model: VideoLM, tmp_path: Path, with_alignment: bool) -> None:
    encoder = model.delta_encoder
    assert isinstance(encoder, DeltaEncoder)
    config = AlignmentConfig(width=12, depth=1, heads=2)
    alignment = Alignment(config, token_width=16, num_motion_tokens=3) if with_alignment else None
    save_delta_encoder(encoder, tmp_path / "delta", alignment=alignment, fusion_frames=15, vision_sha256="ab")
    loaded = load_delta_encoder(tmp_path / "delta")
    assert loaded.delta_encoder.config == encoder.config
    assert (loaded.fusion_frames, loaded.vision_sha256, loaded.folder) == (15, "ab", tmp_path / "delta")
    expected = encoder.state_dict()
    assert all(torch.equal(tensor, expected[n]) for n, tensor in loaded.delta_encoder.state_dict().items())
    if alignment is None:
        assert loaded.alignment is None
    else:
        assert loaded.alignment is not None
        assert (loaded.alignment.config, loaded.alignment.num_motion_tokens) == (config, 3)
        same = loaded.alignment.state_dict()
        assert all(torch.equal(tensor, same[n]) for n, tensor in alignment.state_dict().items())


def test_a_damaged_pre_training_folder_is_refused(model: VideoLM, tmp_path: Path) -> None:
    folder = tmp_path / "delta"
    alignment = Alignment(AlignmentConfig(width=12, depth=1, heads=2), token_width=16)
    assert isinstance(model.delta_encoder, DeltaEncoder)
    save_delta_encoder(model.delta_encoder, folder, alignment=alignment, fusion_frames=15, vision_sha256="ab")
    with pytest.raises(CheckpointError, match="kind 'delta_encoder' found, 'videolm' expected"):
        load_videolm(folder)
    edit_json(folder / "cope.json", alignment=None)
    with pytest.raises(CheckpointError, match="holds alignment"):
        load_delta_encoder(folder)
    edit_json(folder / "cope.json", alignment={"token_width": 16})
    with pytest.raises(CheckpointError, match="alignment cannot be read"):
        load_delta_encoder(folder)
