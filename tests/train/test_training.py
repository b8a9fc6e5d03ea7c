from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from train_setup import GRID_PX, SIZE_PX, Killed, finetune_config, kill_at, losses, pretrain_config

from cope_cli.cache.store import Cache
from cope_cli.data.datasets import BadSample
from cope_cli.errors import CheckpointError, DataError, EntryNotFoundError
from cope_cli.model.checkpoint.folders import load_delta_encoder, load_videolm
from cope_cli.runs import RunFolder, newest_checkpoint, newest_finished_run, read_status
from cope_cli.train.finetune.stage import choose_delta_encoder, finetune, set_trainable
from cope_cli.train.loop.batches import FinetuneCollator, PretrainCollator
from cope_cli.train.loop.setup import load_base
from cope_cli.train.pretrain.stage import PretrainRecipe, build_pretrain_model, pretrain

Train = Callable[..., Path]


@pytest.fixture
def train(train_cache: Cache, qa: Path) -> dict[str, Train]:
    """Both stages under one signature: (run folder, options of the call, changed settings)."""

    def run_pretrain(folder: Path, cache: Cache = train_cache, *, call: Any = None, **changes: Any) -> Path:
        return pretrain(cache, pretrain_config(**changes), folder, **(call or {}))

    def run_finetune(folder: Path, cache: Cache = train_cache, *, call: Any = None, **changes: Any) -> Path:
        return finetune(cache, finetune_config(qa, **changes), folder, **(call or {}))

    return {"pretrain": run_pretrain, "finetune": run_finetune}


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(train: dict[str, Train], tmp_path: Path, kind: Any) -> None:
    # Five items in batches of 2, 15 pairs in batches of 6: step 4 lies in the second epoch, in its middle.
    changes: dict[str, Any] = {"save_steps": 4, "steps": 7}
    if kind == "pretrain":
        changes |= {"batch_size": 3, "accumulate": 2}
    whole, broken = RunFolder(tmp_path / "a" / "whole", kind), RunFolder(tmp_path / "b" / "broken", kind)
    train[kind](whole.path, **changes)
    with pytest.raises(Killed):
        train[kind](broken.path, call={"on_progress": kill_at(6)}, **changes)
    assert [line["step"] for line in broken.metrics()] == [1, 2, 3, 4, 5, 6]
    assert newest_checkpoint(broken.path) == broken.path / "checkpoint-4"
    assert read_status(broken.path)["state"] == "running"
    assert newest_finished_run(broken.path.parent, kind) is None

    seen: list[int] = []
    result = train[kind](
        broken.path, call={"resume": True, "on_progress": lambda step, total, values: seen.append(step)}, **changes
    )
    assert seen == [5, 6, 7]
    if kind == "finetune":
        assert json.loads(broken.config_file.read_text())["delta_encoder"].startswith("fresh")
    assert losses(broken.metrics()) == losses(whole.metrics())
    assert [line["step"] for line in broken.metrics()] == list(range(1, 8))
    assert newest_finished_run(broken.path.parent, kind) == broken.path
    for file in whole.result.glob("*.safetensors"):
        assert (result / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_how_a_batch_is_cut_into_micro_batches_does_not_matter(
    train: dict[str, Train], tmp_path: Path, kind: Any
) -> None:
    runs = []
    for name, batch_size, accumulate in (("one", 4, 1), ("cut", 1, 4)):
        run = RunFolder(tmp_path / name / "run", kind)
        train[kind](run.path, batch_size=batch_size, accumulate=accumulate, steps=2)
        runs.append([line["loss"] for line in run.metrics()])
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_run_folder_tells_the_whole_story(train: dict[str, Train], tmp_path: Path, kind: Any) -> None:
    run = RunFolder(tmp_path / "run", kind)
    frames: list[str] = []
    calls: list[tuple[int, int, dict[str, float]]] = []
    result = train[kind](
        run.path,
        call={
            "on_frames": lambda entry, done, total: frames.append(entry),
            "on_progress": lambda step, total, values: calls.append((step, total, dict(values))),
        },
        steps=3,
        save_steps=1,
        keep_checkpoints=2,
    )
    config = json.loads(run.config_file.read_text())
    assert config["settings"]["grid_px"] == GRID_PX
    assert config["settings"]["seed"] == 0
    assert len(config["cache_entries"]) == 2
    assert {"cope", "pyav", "torch", "transformers", "accelerate"} <= set(config["versions"])
    assert "small seeded model" in config["base_model"]
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]
    assert [(step, total) for step, total, _ in calls] == [(1, 3), (2, 3), (3, 3)]
    assert {"loss", "grad_norm", "learning_rate", "num_bad"} <= set(calls[0][2])
    assert (run.path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in run.path.glob("*checkpoint*")) == ["checkpoint-2", "checkpoint-3"]
    assert read_status(run.path)["state"] == "finished"
    assert result == run.result
    assert result.is_dir()


def test_training_prints_nothing(train: dict[str, Train], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train["finetune"](tmp_path / "run", steps=1)
    assert capfd.readouterr().out == ""


def test_missing_rgb_slots_are_added_and_reported(train: dict[str, Train], tmp_path: Path, train_cache: Cache) -> None:
    from cope_cli.cache.frames import Frames

    cache = Cache(tmp_path / "cache")
    shutil.copytree(train_cache.root, cache.root)
    for entry in cache.primitives_entries():
        for part in (entry.folder / "frames" / str(SIZE_PX)).glob("part-*"):
            if part.name != "part-0":
                shutil.rmtree(part)
    reported: set[str] = set()
    train["pretrain"](
        tmp_path / "run", cache, call={"on_frames": lambda entry, done, total: reported.add(entry)}, steps=1
    )
    assert reported == set(cache.primitives_names())
    for entry in cache.primitives_entries():
        assert Frames(entry, SIZE_PX).slots == set(range(entry.manifest.info["num_slots"]))


def test_pretraining_learns_more_than_to_copy(train: dict[str, Train], tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", "pretrain")
    # All 15 pairs in every step, so that the steps can be compared.
    train["pretrain"](run.path, batch_size=15, steps=16, learning_rate=4e-3)
    metrics = run.metrics()
    assert metrics[0]["loss"] == pytest.approx(metrics[0]["copy_loss"], rel=1e-5)  # starts at "copy the slot before"
    copy = metrics[0]["copy_loss"]
    assert all(line["copy_loss"] == pytest.approx(copy, rel=1e-4) for line in metrics)
    assert metrics[-1]["loss"] < 0.8 * copy
    assert metrics[-1]["loss_per_number"] == pytest.approx(metrics[-1]["loss"] / 96)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("cosine", [0.5, 1, 0.75, 0.25]), ("linear", [0.5, 1, 2 / 3, 1 / 3]), ("constant", [0.5, 1, 1, 1])],
)
def test_the_rate_goes_as_its_schedule_says(
    train: dict[str, Train], tmp_path: Path, schedule: str, rates: list[float]
) -> None:
    run = RunFolder(tmp_path / "run", "pretrain")
    train["pretrain"](run.path, steps=5, warmup_steps=2, schedule=schedule, learning_rate=1e-3)
    found = [line["learning_rate"] / 1e-3 for line in run.metrics()]
    assert found[1:] == pytest.approx(rates), "the first step is at 0"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="is about machines without a GPU")
def test_bf16_needs_no_word_where_there_is_no_gpu(train: dict[str, Train], tmp_path: Path) -> None:
    runs = []
    for device in ("cpu", "auto"):
        run = RunFolder(tmp_path / device, "pretrain")
        train["pretrain"](run.path, steps=2, dtype="bfloat16", device=device)
        runs.append(losses(run.metrics()))
    assert runs[0] == runs[1]


def _gradients(model: torch.nn.Module, loss: torch.Tensor) -> tuple[set[str], set[str]]:
    """Names of the parameters that get a gradient other than zero, and of all."""
    loss.backward()
    named = dict(model.named_parameters())
    return {name for name, p in named.items() if p.grad is not None and bool(p.grad.any())}, set(named)


def _pretrain_batch(cache: Cache) -> dict[str, Any]:
    from cope_cli.data.datasets import PretrainDataset
    from cope_cli.data.videos import VideoIndex

    index = VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX)
    dataset = PretrainDataset(cache.root, index.entries, size_px=SIZE_PX)
    return PretrainCollator(size_px=SIZE_PX, grid_px=GRID_PX)([dataset[0], dataset[3]])


def test_pretraining_moves_delta_encoder_and_alignment_only(
    train: dict[str, Train], train_cache: Cache, tmp_path: Path
) -> None:
    train["pretrain"](tmp_path / "run", steps=1)  # adds the frames
    config = pretrain_config()
    model = build_pretrain_model(load_base(config), config)
    for updater in (model.alignment.theta_ref, model.alignment.theta_warped):  # at zero they let no gradient through
        torch.nn.init.normal_(updater.projection_out.weight, std=0.1)
    inputs = _pretrain_batch(train_cache)
    recipe = PretrainRecipe(fusion_frames=30, vision_sha256="", token_width=96)
    loss, _ = recipe.loss(model, inputs["batch"], inputs["labels"], torch.tensor(2))
    moved, names = _gradients(model, loss)
    assert moved == {name for name in names if name.startswith(("delta_encoder.", "alignment."))}


@pytest.mark.parametrize("train_vision", [False, True])
def test_finetuning_moves_everything_but_a_frozen_vision_tower(
    train_cache: Cache, qa: Path, tmp_path: Path, train_vision: bool
) -> None:
    folder = tmp_path / "run"
    before = load_base(finetune_config(qa)).model.state_dict()
    finetune(train_cache, finetune_config(qa, steps=2, train_vision=train_vision, warmup_steps=0), folder)
    loaded = load_videolm(folder / "model").model
    moved = {name for name, tensor in loaded.state_dict().items() if not torch.equal(tensor, before[name])}
    read = {id(p) for p in loaded.vision_parameters()}
    expected = set()
    for name, parameter in loaded.named_parameters():
        in_vision = name.startswith("base.model.vision_tower.")
        if not in_vision or (train_vision and id(parameter) in read):
            expected.add(name)
    # A key's bias shifts all scores of a softmax alike: its gradient is zero but for rounding.
    unmoved = {name for name in expected - moved if not name.endswith("k_proj.bias")}
    assert moved <= expected
    assert not unmoved


def test_the_vision_tower_has_its_own_rate(train_cache: Cache, qa: Path, tmp_path: Path) -> None:
    from cope_cli.train.finetune.stage import FinetuneRecipe
    from cope_cli.train.loop.arguments import training_arguments
    from cope_cli.train.loop.engine import CopeTrainer

    config = finetune_config(qa, learning_rate=1e-3)
    base = load_base(config)
    set_trainable(base.model, train_vision=True)
    trainer = CopeTrainer(
        recipe=FinetuneRecipe(tokenizer=base.tokenizer, fusion_frames=30, vision_learning_rate=2e-6),
        run=RunFolder(tmp_path, "finetune"),
        on_progress=lambda step, total, values: None,
        model=base.model,
        args=training_arguments(config, tmp_path, 4, 1e-3),
        train_dataset=[0],
    )
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    for name, parameter in base.model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (2e-6 if name.startswith("base.model.vision_tower.") else 1e-3), name


def test_a_batch_of_which_nothing_is_left_counts_for_nothing_and_reaches_every_module(qa: Path) -> None:
    bad = BadSample(where="item 3", message="broken")
    config = finetune_config(qa)
    model = load_base(config).model
    set_trainable(model, train_vision=False)
    inputs = FinetuneCollator(pad_id=256, size_px=SIZE_PX, grid_px=GRID_PX)([bad])
    assert inputs["bad"] == [bad]
    assert inputs["labels"].eq(-100).all()
    loss = model(inputs["batch"], num_items_in_batch=1).loss
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)

    pretrain_model = build_pretrain_model(load_base(pretrain_config()), pretrain_config())
    inputs = PretrainCollator(size_px=SIZE_PX, grid_px=GRID_PX)([bad, bad])
    recipe = PretrainRecipe(fusion_frames=30, vision_sha256="", token_width=96)
    loss, _ = recipe.loss(pretrain_model, inputs["batch"], inputs["labels"], torch.tensor(1))
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in pretrain_model.parameters() if p.requires_grad)


@pytest.fixture
def damaged(train_cache: Cache, tmp_path: Path) -> tuple[Cache, str]:
    """A copy in which one byte of `camera_pan`'s residuals is flipped."""
    cache = Cache(tmp_path / "damaged")
    shutil.copytree(train_cache.root, cache.root)
    name = next(name for name in cache.primitives_names() if name.startswith("camera_pan"))
    shard = cache.primitives_folder / f"{name}.zarr" / "residual" / "c.0.0.0.0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    return cache, name


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_damaged_sample_stops_the_run_by_name_or_is_counted(
    train: dict[str, Train], damaged: tuple[Cache, str], tmp_path: Path, kind: Any, workers: int
) -> None:
    cache, name = damaged
    with pytest.raises(DataError, match=rf"entry {name}: .*array residual") as caught:
        train[kind](tmp_path / "stops", cache, batch_size=15, steps=2, workers=workers)
    assert "Traceback" not in str(caught.value)
    assert read_status(tmp_path / "stops")["state"] == "running"

    run = RunFolder(tmp_path / "goes-on", kind)
    counts: list[float] = []
    train[kind](
        run.path,
        cache,
        call={"on_progress": lambda step, total, values: counts.append(values["num_bad"])},
        batch_size=1,
        steps=32 if kind == "pretrain" else 11,  # two epochs: each bad sample is met twice and counted once
        skip_bad=3,
        workers=workers,
    )
    skipped = run.skipped()
    assert skipped
    assert all(name in line["where"] for line in skipped)
    if kind == "finetune":
        assert len(skipped) == 2  # the two items about the damaged video
    assert counts[-1] == len(skipped)
    assert len((run.path / "skipped.jsonl").read_text().splitlines()) == len(skipped)
    assert read_status(run.path)["state"] == "finished"


def test_items_without_a_video_or_malformed_are_left_out_by_name(train_cache: Cache, qa: Path, tmp_path: Path) -> None:
    items = json.loads(qa.read_text())
    items[1]["video"] = "absent.mp4"
    items[2]["conversations"] = []
    data = tmp_path / "data.json"
    data.write_text(json.dumps(items))
    with pytest.raises(DataError, match=r"item 2 \(id 'camera_pan-1'\)"):
        finetune(train_cache, finetune_config(data), tmp_path / "stops")
    run = RunFolder(tmp_path / "run", "finetune")
    finetune(train_cache, finetune_config(data, steps=1, skip_bad=2), run.path)
    wheres = [line["where"] for line in run.skipped()]
    assert len(wheres) == 2
    assert any("item 2 (id 'camera_pan-1')" in where for where in wheres)
    assert any("item 1 (id 'still_scene-2')" in where for where in wheres)
    assert json.loads(run.config_file.read_text())["num_items"] == 3


def test_finetuning_takes_the_newest_finished_pretrain_run(
    train: dict[str, Train], train_cache: Cache, qa: Path, tmp_path: Path
) -> None:
    folder = train["pretrain"](tmp_path / "pretrain-1", steps=2)
    with pytest.raises(Killed):
        train["pretrain"](tmp_path / "pretrain-2", call={"on_progress": kill_at(1)}, steps=2)
    config = finetune_config(qa)
    encoder, source = choose_delta_encoder(load_base(config), config, tmp_path)
    assert "pretrain-1" in source
    expected = load_delta_encoder(folder).delta_encoder.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in encoder.state_dict().items())

    by_run, _ = choose_delta_encoder(
        load_base(config), finetune_config(qa, delta_encoder=tmp_path / "pretrain-1"), Path("x")
    )
    by_folder, _ = choose_delta_encoder(load_base(config), finetune_config(qa, delta_encoder=folder), Path("x"))
    for other in (by_run, by_folder):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in other.state_dict().items())
    fresh, source = choose_delta_encoder(load_base(config), finetune_config(qa, delta_encoder="fresh"), tmp_path)
    assert source == "fresh, as asked for"
    assert not all(torch.equal(tensor, expected[name]) for name, tensor in fresh.state_dict().items())
    assert choose_delta_encoder(load_base(config), config, tmp_path / "none")[1].startswith("fresh: no finished")


def test_a_delta_encoder_that_does_not_fit_is_an_error_that_says_why(
    train: dict[str, Train], qa: Path, tmp_path: Path
) -> None:
    train["pretrain"](tmp_path / "pretrain-1", steps=1)
    config = finetune_config(qa, grid_px=64, fusion_frames=15)
    base = load_base(config)
    with torch.no_grad():
        next(base.model.base.model.vision_tower.parameters()).add_(1)
    from dataclasses import replace

    from cope_cli.model.checkpoint.folders import vision_tower_sha256

    base = replace(base, vision_sha256=vision_tower_sha256(base.model))
    with pytest.raises(
        CheckpointError, match=r"vision tower .* grid 32, 64 needed; fusion window 30, 15 needed"
    ) as caught:
        choose_delta_encoder(base, config, tmp_path)
    assert "--delta-encoder fresh" in caught.value.hint


def test_training_goes_on_from_a_saved_model(train: dict[str, Train], tmp_path: Path) -> None:
    first = train["finetune"](tmp_path / "a" / "finetune-1", steps=2)
    run = RunFolder(tmp_path / "b" / "finetune-2", "finetune")
    train["finetune"](run.path, model=first, steps=1)
    config = json.loads(run.config_file.read_text())
    assert config["delta_encoder"] == "the model's own"
    assert config["base_model"] == str(first)
    assert config["learning_rate"] == 1e-5
    # The first step is logged before it moves anything: the loss is that of the saved model.
    again = RunFolder(tmp_path / "a" / "finetune-1", "finetune").metrics()
    assert run.metrics()[0]["loss"] < again[0]["loss"]


def test_nothing_to_train_on_is_said(train: dict[str, Train], tmp_path: Path) -> None:
    with pytest.raises(EntryNotFoundError, match="no primitives with fusion window 30"):
        train["pretrain"](tmp_path / "run", Cache(tmp_path / "empty"))
    assert not (tmp_path / "run").exists()


def test_a_save_that_fails_leaves_no_checkpoint_behind(
    train: dict[str, Train], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cope_cli.train.loop.engine import CopeTrainer

    def fail(self: Any, output_dir: str) -> None:
        raise Killed

    monkeypatch.setattr(CopeTrainer, "_save_rng_state", fail)
    with pytest.raises(Killed):
        train["pretrain"](tmp_path / "run", steps=2, save_steps=1)
    assert newest_checkpoint(tmp_path / "run") is None
    assert not list((tmp_path / "run").glob("*checkpoint*"))


def test_a_broken_optimizer_file_names_the_checkpoint(train: dict[str, Train], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train["pretrain"](tmp_path / "run", call={"on_progress": kill_at(2)}, steps=3, save_steps=1)
    (tmp_path / "run" / "checkpoint-1" / "optimizer.pt").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match="checkpoint-1: cannot resume from it"):
        train["pretrain"](tmp_path / "run", call={"resume": True}, steps=3, save_steps=1)
