"""LoRA runs: what learns, what is saved, how it is loaded and merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from train_setup import GRID_PX, Killed, finetune_config, kill_at, losses
from typer.testing import CliRunner

from cope_cli.cache.store import Cache
from cope_cli.cli.main import app
from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.checkpoint.adapter import is_adapter
from cope_cli.model.checkpoint.folders import load_videolm, save_videolm
from cope_cli.model.lora import LoraSizes, add_lora, merge_lora
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.model.videolm import VideoLM
from cope_cli.runs import RunFolder
from cope_cli.train.finetune.merge import merge_adapter
from cope_cli.train.finetune.stage import finetune
from cope_cli.train.finetune.trainable import halve_frozen_weights, part_of, set_trainable
from cope_cli.train.finetune.trainable import is_adapter as is_adapter_parameter
from cope_cli.train.loop.setup import load_base

SIZES = LoraSizes(rank=4, alpha=8)


def _logits(model: VideoLM, batch: VideoLMBatch) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(batch).logits
    return logits


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    save_videolm(*build_small_videolm(seed=5, grid_px=GRID_PX), folder, fusion_frames=30)
    return folder


@pytest.fixture(scope="module")
def run(base: Path, train_cache: Cache, qa: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run that has moved far enough to be told from its base."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "finetune-1", "finetune")
    config = finetune_config(qa, model=base, lora=4, steps=3, warmup_steps=0, learning_rate=1e-2)
    finetune(train_cache, config, folder.path)
    return folder


@pytest.mark.parametrize("freeze", [(), ("projector",), ("delta-encoder",), ("projector", "delta-encoder")])
@pytest.mark.parametrize("train_vision", [False, True])
def test_gradients_reach_the_adapters_and_the_other_parts_that_learn(
    batch: VideoLMBatch,
    freeze: tuple[str, ...],
    train_vision: bool,
) -> None:
    fresh = build_small_videolm(grid_px=GRID_PX)[0].train()
    before = _logits(fresh, batch)
    add_lora(fresh, SIZES)
    assert torch.equal(_logits(fresh, batch), before)  # without effect at first
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            if ".lora_B" in name:  # at zero it lets no gradient through to A
                nn.init.normal_(parameter, std=0.05)
    set_trainable(fresh, train_vision=train_vision, freeze=freeze, lora=True)
    fresh.train()(batch).loss.backward()
    read = {id(parameter) for parameter in fresh.vision_parameters()}
    for name, parameter in fresh.named_parameters():
        part = part_of(name)
        learns = part not in freeze and (part != "llm" or is_adapter_parameter(name))
        if part == "vision":
            learns = train_vision and id(parameter) in read
        reached = parameter.grad is not None and bool(parameter.grad.any())
        if not name.endswith("k_proj.bias"):  # zero but for rounding
            assert reached == learns, name


def test_every_linear_layer_of_the_language_model_but_the_output_is_adapted() -> None:
    fresh = build_small_videolm(grid_px=GRID_PX)[0]
    linear = {n for n, m in fresh.base.model.language_model.named_modules() if isinstance(m, nn.Linear)}
    state = torch.random.get_rng_state()
    add_lora(fresh, SIZES, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    adapted = {name.split(".lora_A")[0] for name, _ in fresh.named_parameters() if ".lora_A" in name}
    assert adapted == {f"base.model.language_model.{name}" for name in linear}
    again = build_small_videolm(grid_px=GRID_PX)[0]
    add_lora(again, SIZES, seed=1)
    weights = again.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in fresh.state_dict().items())


def test_merged_equals_unmerged(run: RunFolder, base: Path, batch: VideoLMBatch, tmp_path: Path) -> None:
    unmerged = load_videolm(run.result)
    result = CliRunner().invoke(app, ["train", "merge", str(run.path), "--out", str(tmp_path / "merged")])
    assert result.exit_code == 0, result.output
    merged = load_videolm(tmp_path / "merged")
    assert not is_adapter(tmp_path / "merged")
    assert (merged.layout, merged.fusion_frames) == ("cope", 30)
    assert merged.vision_sha256 == unmerged.vision_sha256 == load_videolm(base).vision_sha256
    expected = _logits(unmerged.model, batch)
    torch.testing.assert_close(_logits(merged.model, batch), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(_logits(load_videolm(base).model, batch), expected, atol=1e-2)
    # Only the adapters' products were added to the language model; embeddings and output layer are the base's.
    before, after = load_videolm(base).model.base, merged.model.base
    assert torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
    assert not torch.equal(before.model.image_newline, after.model.image_newline)
    with pytest.raises(UsageError, match="this folder is not empty"):
        merge_adapter(run.path, tmp_path / "merged")
    with pytest.raises(CheckpointError, match="not an adapter"):
        merge_adapter(tmp_path / "merged", tmp_path / "twice")
    with pytest.raises(CheckpointError, match="no adapters"):
        merge_lora(merged.model)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_folder_is_one_that_peft_reads(run: RunFolder, base: Path) -> None:
    from peft import PeftModel

    assert sorted(path.name for path in run.result.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "cope.json", "delta_encoder.safetensors",
        "parts.safetensors"]  # fmt: skip
    ours = load_videolm(run.result).model
    theirs = PeftModel.from_pretrained(load_videolm(base).model.base, str(run.result))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        found = theirs.base_model.model.model.language_model(input_ids=ids).last_hidden_state
        expected = ours.base.model.language_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, expected)


def test_a_killed_lora_run_goes_on_as_if_nothing_had_happened(
    run: RunFolder, base: Path, train_cache: Cache, qa: Path, tmp_path: Path
) -> None:
    config = finetune_config(qa, model=base, lora=4, steps=3, warmup_steps=0, learning_rate=1e-2, save_steps=2)
    broken = RunFolder(tmp_path / "broken", "finetune")
    with pytest.raises(Killed):
        finetune(train_cache, config, broken.path, on_progress=kill_at(2))
    with pytest.raises(Killed):
        finetune(train_cache, config, broken.path, resume=True, on_progress=kill_at(3))
    assert (broken.path / "checkpoint-2").is_dir()
    finetune(train_cache, config, broken.path, resume=True)
    assert losses(broken.metrics()) == losses(run.metrics())
    for file in run.result.glob("*.safetensors"):
        assert (broken.result / file.name).read_bytes() == file.read_bytes(), file.name


def test_without_its_base_an_adapter_says_what_is_missing(run: RunFolder, base: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    adapter = tmp_path / "adapter"
    shutil.copytree(run.result, adapter)
    description = json.loads((adapter / "cope.json").read_text())
    description["base"]["named"] = str(tmp_path / "gone")
    (adapter / "cope.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"the base model of this adapter is missing: .*gone") as caught:
        load_videolm(adapter)
    assert "--base FOLDER" in caught.value.hint
    merge_adapter(adapter, tmp_path / "out", base=moved)
    assert load_videolm(tmp_path / "out").fusion_frames == 30
    shard = moved / "model.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"has changed since this adapter was trained: hash .* found, .* expected"
    ):
        load_videolm(adapter, adapter_base=moved)


def test_what_an_adapter_is_not_for_is_refused(run: RunFolder, qa: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a LoRA adapter: training starts from a whole model"):
        load_base(finetune_config(qa, model=run.path))
    with pytest.raises(UsageError, match="neither --device-map nor"):
        load_videolm(run.result, device_map="auto")
    loaded = load_videolm(run.result)
    with pytest.raises(CheckpointError, match="Merge them first"):
        save_videolm(loaded.model, loaded.tokenizer, tmp_path / "x", fusion_frames=30)


def test_a_run_on_the_small_seeded_model_points_to_its_seed(
    train_cache: Cache,
    qa: Path,
    tmp_path: Path,
    batch: VideoLMBatch,
) -> None:
    folder = tmp_path / "runs" / "finetune-1"
    result = finetune(train_cache, finetune_config(qa, lora=2, steps=1, warmup_steps=0, train_vision=True), folder)
    pointer = json.loads((result / "cope.json").read_text())["base"]
    assert (pointer["named"], pointer["small_seed"], pointer["small_grid_px"]) == (None, 0, GRID_PX)
    loaded = load_videolm(result)
    assert loaded.vision_sha256 != build_vision_sha256()
    assert _logits(loaded.model, batch).isfinite().all()
    pointer["sha256"] = "0" * 64
    description = json.loads((result / "cope.json").read_text())
    (result / "cope.json").write_text(json.dumps({**description, "base": pointer}))
    with pytest.raises(CheckpointError, match="has changed since this adapter was trained"):
        load_videolm(result)


def build_vision_sha256() -> str:
    from cope_cli.model.checkpoint.folders import vision_tower_sha256

    return vision_tower_sha256(build_small_videolm(0, GRID_PX)[0])


def test_the_frozen_base_in_bfloat16_changes_no_loss(
    train_cache: Cache, qa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under --dtype bfloat16 a base stored in bfloat16 stays in it, and the adapters learn the very same."""
    from cope_cli.train.finetune import stage as module

    model, tokenizer = build_small_videolm(seed=5, grid_px=GRID_PX)
    save_videolm(model.bfloat16(), tokenizer, tmp_path / "base", fusion_frames=30)
    halved: list[int] = []

    def count(model: nn.Module) -> int:
        halved.append(halve_frozen_weights(model))
        linear = model.base.model.language_model.layers[0].mlp.up_proj
        assert linear.base_layer.weight.dtype == torch.bfloat16
        assert linear.lora_A["default"].weight.dtype == torch.float32
        assert model.base.get_input_embeddings().weight.dtype == torch.float32
        return halved[-1]

    runs = {}
    for name, replacement in (("halved", count), ("whole", lambda model: 0)):
        monkeypatch.setattr(module, "halve_frozen_weights", replacement)
        config = finetune_config(qa, model=tmp_path / "base", lora=4, steps=2, learning_rate=1e-2, dtype="bfloat16")
        finetune(train_cache, config, tmp_path / name)
        runs[name] = losses(RunFolder(tmp_path / name, "finetune").metrics())
    frozen = sum(p.numel() for p in model.base.model.language_model.layers.parameters())
    assert halved[0] > 0.9 * frozen
    assert runs["halved"] == runs["whole"]
    assert runs["halved"][0] != runs["halved"][-1]


def test_frozen_weights_that_bfloat16_would_round_are_left_alone() -> None:
    layer = nn.Linear(4, 4).requires_grad_(False)
    assert halve_frozen_weights(layer) == 0 and layer.weight.dtype == torch.float32
    layer.weight.data = layer.weight.data.bfloat16().float()
    assert halve_frozen_weights(layer) == 16
    assert (layer.weight.dtype, layer.bias.dtype) == (torch.bfloat16, torch.float32)
