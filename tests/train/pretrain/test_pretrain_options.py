"""Mixed fusion windows, stored vision tokens, recipes, and retrieval with a finished run."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_setup import GRID_PX, SIZE_PX, Killed, fill, finetune_config, kill_at, losses, pretrain_config
from typer.testing import CliRunner

from cope_cli.cache.features import Features, features_folder
from cope_cli.cache.frames import Frames
from cope_cli.cache.prune import find_removable
from cope_cli.cache.store import Cache
from cope_cli.cli.main import app
from cope_cli.config import ExtractConfig
from cope_cli.data.datasets import PretrainDataset
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import CacheCorruptError, CheckpointError, EntryNotFoundError, UsageError
from cope_cli.model.checkpoint.folders import COPE_FILE, load_delta_encoder
from cope_cli.runs import RunFolder
from cope_cli.stages.extract import extract_video
from cope_cli.stages.verify import verify_primitives
from cope_cli.train.finetune.stage import choose_delta_encoder
from cope_cli.train.loop.setup import load_base
from cope_cli.train.pretrain import features
from cope_cli.train.pretrain.config import PretrainConfig, parse_windows
from cope_cli.train.pretrain.features import VisionKey, as_bfloat16, check_size
from cope_cli.train.pretrain.stage import build_pretrain_model, pretrain
from cope_cli.train.pretrain.windows import MixedPairs, open_pretrain_data


@pytest.fixture(scope="module")
def windows_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """`hard_cut` and `camera_pan` with windows of 60 and 30 frames, the RGB slots of all stored."""
    cache = Cache(tmp_path_factory.mktemp("windows") / "cache")
    fill(cache, ["hard_cut", "camera_pan"])
    for entry in cache.encoded_entries():
        extract_video(entry.name, cache, ExtractConfig(fusion_frames=60, grid_px=GRID_PX))
    return cache


class _Counted:
    """A dataset of which only the length matters."""

    def __init__(self, name: str, length: int) -> None:
        self.name, self.length = name, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.name, index


def _epochs(mixed: MixedPairs, epochs: range) -> list[list[Any]]:
    found = []
    for epoch in epochs:
        mixed.set_epoch(epoch)
        found.append([mixed[index] for index in range(len(mixed))])
    return found


def test_every_epoch_has_as_many_pairs_of_each_window_and_all_come_before_any_comes_again() -> None:
    parts: Any = {30: _Counted("a", 4), 10: _Counted("b", 10), 15: _Counted("c", 6)}
    mixed = MixedPairs(parts, 0)
    found = _epochs(mixed, range(10))
    for epoch in found:
        assert Counter(name for name, _ in epoch) == {"a": 4, "b": 4, "c": 4}
    for name, length in (("a", 4), ("b", 10), ("c", 6)):
        seen = [index for epoch in found for part, index in epoch if part == name]
        for start in range(0, len(seen) - length + 1, length):
            assert sorted(seen[start : start + length]) == list(range(length))
    # A function of seed and epoch alone: in any order, from the middle, in another process.
    assert _epochs(MixedPairs(parts, 0), range(7, 8)) == found[7:8]
    assert _epochs(mixed, range(3, 4)) == found[3:4]
    assert _epochs(MixedPairs(parts, 1), range(10)) != found
    with pytest.raises(IndexError):
        mixed[12]


def test_a_mix_is_trained_on_goes_on_after_a_kill_and_is_recorded(windows_cache: Cache, tmp_path: Path) -> None:
    # 7 pairs with s = 60, so epochs of 14, 5 steps each; step 6 lies in the second epoch.
    changes = {"fusion_mix": (60, 30), "save_steps": 6, "steps": 8}
    whole, broken = RunFolder(tmp_path / "a" / "whole", "pretrain"), RunFolder(tmp_path / "b" / "broken", "pretrain")
    pretrain(windows_cache, pretrain_config(**changes), whole.path)
    with pytest.raises(Killed):
        pretrain(windows_cache, pretrain_config(**changes), broken.path, on_progress=kill_at(7))
    result = pretrain(windows_cache, pretrain_config(**changes), broken.path, resume=True)
    assert losses(broken.metrics()) == losses(whole.metrics())
    assert json.loads(broken.config_file.read_text())["num_pairs"] == 14

    written = json.loads((result / COPE_FILE).read_text())
    assert (written["fusion_frames"], written["fusion_windows"]) == (60, [30, 60])
    loaded = load_delta_encoder(result)
    assert (loaded.fusion_frames, loaded.fusion_windows) == (60, (30, 60))
    # It goes into finetuning with either window, and with no other.
    for window in (30, 60):
        config = finetune_config(Path("qa.json"), delta_encoder=result, fusion_frames=window)
        choose_delta_encoder(load_base(config), config, tmp_path)
    config = finetune_config(Path("qa.json"), delta_encoder=result, fusion_frames=15)
    with pytest.raises(CheckpointError, match="fusion window 60, 15 needed"):
        choose_delta_encoder(load_base(config), config, tmp_path)


def test_held_out_videos_of_a_mix_are_held_out_in_every_window(windows_cache: Cache) -> None:
    config = pretrain_config(fusion_mix=(30, 60), held_out=0.5)
    data = open_pretrain_data(windows_cache, config, size_px=SIZE_PX)
    sources = [
        {data.entries[name].source_path for name in data.entry_names(parts)} for parts in (data.train, data.held_out)
    ]
    assert [len(found) for found in sources] == [1, 1]
    assert sources[0].isdisjoint(sources[1])
    assert set(data.train) == set(data.held_out) == {30, 60}


def test_a_missing_window_names_the_commands_that_make_it(windows_cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(EntryNotFoundError, match="window 10 of 2 of 2 videos, window 15 of 2 of 2 videos") as caught:
        open_pretrain_data(windows_cache, pretrain_config(fusion_mix=(10, 15, 30)), size_px=SIZE_PX)
    assert caught.value.hint == "Run `cope extract --fusion 10 --grid 32`; `cope extract --fusion 15 --grid 32`."
    cache = Cache(tmp_path / "cache")
    shutil.copytree(windows_cache.root, cache.root)
    shutil.rmtree(VideoIndex(cache, fusion_frames=60, grid_px=GRID_PX).find("camera_pan.mp4").folder)
    with pytest.raises(EntryNotFoundError, match="missing: window 60 of 1 of 2 videos"):
        open_pretrain_data(cache, pretrain_config(fusion_mix=(30, 60)), size_px=SIZE_PX)
    with pytest.raises(EntryNotFoundError, match="missing: window 30, window 60"):
        open_pretrain_data(Cache(tmp_path / "empty"), pretrain_config(fusion_mix=(30, 60)), size_px=SIZE_PX)


def test_a_folder_of_one_window_has_the_fields_it_always_had(windows_cache: Cache, tmp_path: Path) -> None:
    result = pretrain(windows_cache, pretrain_config(steps=1), tmp_path / "run")
    assert "fusion_windows" not in json.loads((result / COPE_FILE).read_text())
    assert load_delta_encoder(result).fusion_windows == (30,)


@pytest.fixture(scope="module")
def stored(windows_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, RunFolder, list[str]]:
    """A copy of the cache after a run with --store-features, that run, and what it said."""
    root, notes = tmp_path_factory.mktemp("stored"), list[str]()
    cache = Cache(root / "cache")
    shutil.copytree(windows_cache.root, cache.root)
    run = RunFolder(root / "run", "pretrain")
    pretrain(cache, pretrain_config(store_features=True, steps=4), run.path, on_note=notes.append)
    return cache, run, notes


def _key() -> VisionKey:
    base = load_base(pretrain_config())
    return VisionKey.of(base.model, base.vision_sha256)


def test_stored_tokens_are_the_vision_towers_rounded_to_bfloat16(stored: tuple[Cache, RunFolder, list[str]]) -> None:
    cache, _, notes = stored
    key, model = _key(), load_base(pretrain_config()).model
    entry = VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX).find("camera_pan.mp4")
    found = Features(entry, key.name)
    assert found.slots == set(range(entry.manifest.info["num_slots"]))
    assert key.shape == (196, 96)
    rgb = torch.from_numpy(Frames(entry, SIZE_PX).rgb(0))[None]  # an I-frame slot: the only ones stored as RGB here
    with torch.no_grad():
        expected = model.vision_tokens(rgb)[0]
    values = torch.from_numpy(found.tokens(0).view(np.int16)).view(torch.bfloat16).float()
    torch.testing.assert_close(values, expected, rtol=2**-8, atol=1e-6)
    assert np.array_equal(as_bfloat16(model, rgb.numpy())[0], found.tokens(0))
    slots = sum(
        e.manifest.info["num_slots"] for e in VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX).entries.values()
    )
    assert notes[0].startswith(f"--store-features: vision tokens of {slots} slots, 0.04 MB each, take up to 0.00 GB")


def test_training_on_stored_tokens_is_training_on_the_fly_but_for_their_rounding(
    stored: tuple[Cache, RunFolder, list[str]], tmp_path: Path
) -> None:
    cache, run, _ = stored
    fly = RunFolder(tmp_path / "fly", "pretrain")
    pretrain(cache, pretrain_config(steps=4), fly.path)
    for mine, theirs in zip(run.metrics(), fly.metrics(), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-2)
        assert mine["copy_loss"] == pytest.approx(theirs["copy_loss"], rel=1e-2)
        assert mine["copy_loss"] != theirs["copy_loss"]  # rounded they are
    # Rounding the vision tower's output on the fly gives the same numbers, exactly but for the order of additions.
    config = pretrain_config(store_features=True)
    model, exact = build_pretrain_model(load_base(config), config), build_pretrain_model(load_base(config), config)
    entries = VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX).entries
    from cope_cli.data.collate import collate_pairs

    read = PretrainDataset(cache.root, entries, size_px=SIZE_PX, features=_key().name)
    seen = PretrainDataset(cache.root, entries, size_px=SIZE_PX)
    numbers = [0, 3, 9]
    tokens = collate_pairs([read[n] for n in numbers])  # type: ignore[misc]
    frames = collate_pairs([seen[n] for n in numbers])  # type: ignore[misc]
    original = exact.vision.vision_tokens
    exact.vision.vision_tokens = lambda rgb: original(rgb).bfloat16().float()  # type: ignore[method-assign]
    assert tokens.rgb.numel() == 0
    torch.testing.assert_close(model(tokens).loss, exact(frames).loss, rtol=1e-5, atol=0)


def test_nothing_is_stored_twice_and_no_vision_tower_runs(
    stored: tuple[Cache, RunFolder, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cope_cli.model.videolm import VideoLM

    def fail(self: Any, rgb: Any) -> Any:
        raise AssertionError("the vision tower ran")

    cache, run, _ = stored
    monkeypatch.setattr(VideoLM, "vision_tokens", fail)
    notes: list[str] = []
    again = RunFolder(tmp_path / "again", "pretrain")
    config = pretrain_config(store_features=True, steps=4)
    pretrain(cache, config, again.path, on_note=notes.append)
    assert notes == []
    assert losses(again.metrics()) == losses(run.metrics())


def test_a_flipped_bit_in_stored_tokens_is_found(stored: tuple[Cache, RunFolder, list[str]], tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    shutil.copytree(stored[0].root, cache.root)
    entry = VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX).find("camera_pan.mp4")
    folder = features_folder(entry.folder, _key().name)
    record = verify_primitives(entry.name, cache)
    assert record.num_parts == 1 + len(list(entry.folder.glob("frames/*/part-*")))
    shard = folder / "part-0" / "tokens" / "c.0.0.0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    found = Features(entry, _key().name)
    with pytest.raises(CacheCorruptError, match="array tokens"):
        for slot in sorted(found.slots):
            found.tokens(slot)
    with pytest.raises(CacheCorruptError, match="SHA-256"):
        verify_primitives(entry.name, cache)
    shard.unlink()
    with pytest.raises(CacheCorruptError, match="missing"):
        Features(entry, _key().name)
    assert [item.name for item in find_removable(cache)] == [entry.name]
    with pytest.raises(LookupError, match="no vision tokens of slot 0"):
        Features(entry, "other").tokens(0)


def test_more_than_ten_gigabytes_are_stored_when_asked_for_twice(
    windows_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = VisionKey(vision_sha256="0", feature_layer=-2, size_px=384, num_tokens=729, token_width=1152)
    assert key.slot_bytes == 1_679_616
    assert "take up to 9.99 GB" in check_size(5950, key, is_accepted=False)
    with pytest.raises(UsageError, match=r"10\.01 GB in the cache: more than 10 GB") as caught:
        check_size(5960, key, is_accepted=False)
    assert "--yes" in caught.value.hint
    assert "10.01 GB" in check_size(5960, key, is_accepted=True)

    monkeypatch.setattr(features, "LIMIT_BYTES", 1000)
    cache = Cache(tmp_path / "cache")
    shutil.copytree(windows_cache.root, cache.root)
    with pytest.raises(UsageError, match="--store-features"):
        pretrain(cache, pretrain_config(store_features=True, steps=1), tmp_path / "run")
    assert not list(cache.primitives_folder.glob("*/features"))
    assert not (tmp_path / "run").exists()


def test_a_recipe_gives_defaults_that_every_flag_overrides() -> None:
    paper = PretrainConfig(recipe="paper", model=Path("m")).resolve()
    assert (paper.global_batch, paper.num_steps(10), paper.num_warmup_steps(113_000)) == (1024, 113_000, 1000)
    assert paper.resolved_learning_rate() == paper.resolved_learning_rate(num_ranks=16) == 6.25e-5 * 1024 / 64
    own = PretrainConfig(recipe="paper", model=Path("m"), global_batch=128, steps=7, warmup_steps=2, learning_rate=3e-4)
    assert (own.global_batch, own.num_steps(10), own.num_warmup_steps(7)) == (128, 7, 2)
    assert own.resolved_learning_rate() == 3e-4
    assert PretrainConfig(recipe="paper", global_batch=128).resolved_learning_rate() == 6.25e-5 * 2
    assert PretrainConfig(recipe="paper", epochs=2, global_batch=4, batch_size=4).num_steps(8) == 4
    small = PretrainConfig(recipe="small", model=Path("m"))
    assert small.num_steps(10_000) == PretrainConfig.SMALL_STEPS == PretrainConfig().num_steps(10_000)
    assert small.resolved_learning_rate() == PretrainConfig().resolved_learning_rate()
    assert small.global_batch is None


def test_the_papers_batch_is_filled_by_accumulation_unless_a_flag_says_otherwise() -> None:
    paper = PretrainConfig(recipe="paper").resolve()
    assert paper.filling(8) == "global batch 1024 = 16 samples x 8 ranks x 8 micro-batches"
    assert [paper.micro_batches(ranks) for ranks in (1, 16, 64)] == [64, 4, 1]
    assert PretrainConfig(recipe="paper", global_batch=64).micro_batches(2) == 2
    own = PretrainConfig(recipe="paper", accumulate=4).resolve()
    assert (own.micro_batches(2), own.step_samples(2)) == (4, 128)
    assert own.resolved_learning_rate(2) == 2 * 6.25e-5
    with pytest.raises(UsageError, match="give one of them"):
        PretrainConfig(recipe="paper", global_batch=64, accumulate=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "big"}, "--recipe big: expected paper or small"),
        ({"fusion_mix": (30,)}, "--fusion-mix 30: expected at least two windows"),
        ({"fusion_mix": (30, 30)}, "--fusion-mix 30,30"),
        ({"fusion_mix": (0, 30)}, "--fusion 0"),
        ({"held_out": 1.0}, "--held-out 1.0"),
        ({"eval_steps": 0}, "--eval-steps 0"),
        ({"eval_pairs": 0}, "--eval-pairs 0"),
        ({"global_batch": 0}, "--global-batch 0"),
    ],
)
def test_a_bad_value_names_its_flag(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PretrainConfig(**changes)


def test_windows_are_read_from_text_and_compare_equal_to_those_of_a_record() -> None:
    assert parse_windows("10,15,30") == {"fusion_mix": (10, 15, 30)}
    assert parse_windows(None) == {}
    with pytest.raises(UsageError, match="--fusion-mix 10;30"):
        parse_windows("10;30")
    config = PretrainConfig(fusion_mix=(30, 10, 15)).resolve()
    assert (config.fusion_frames, config.windows) == (30, (10, 15, 30))
    assert json.loads(json.dumps(config.settings())) == config.settings()
    assert "eval_steps" not in config.settings()


def test_the_command_line_trains_tells_and_retrieves(windows_cache: Cache, tmp_path: Path) -> None:
    where = ["--cache", str(windows_cache.root), "--runs", str(tmp_path)]
    options = ["--grid", str(GRID_PX), "--steps", "3", "--batch-size", "3", "--held-out", "0.5", "--device", "cpu"]
    result = CliRunner().invoke(app, ["train", "pretrain", "--run", "one", *options, *where])
    assert result.exit_code == 0, result.output
    assert "held-out videos: window 30: " in result.output
    assert "a step in seconds: data " in result.output
    result = CliRunner().invoke(app, ["bench", "--retrieval", "one", "--device", "cpu", "--json", *where])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["chosen"] == "the videos that the run held out"
    assert report["fusion_frames"] == 30
    held = json.loads((tmp_path / "one" / "config.json").read_text())["held_out_entries"]
    assert [row["name"] for row in report["rows"]] == held
    assert report["overall"]["num_queries"] == report["rows"][0]["num_queries"] > 0
    result = CliRunner().invoke(app, ["bench", "--retrieval", "one", "camera_pan.mp4", "hard_cut.mp4", *where])
    assert result.exit_code == 0, result.output
    assert "all videos" in result.output
    assert CliRunner().invoke(app, ["bench", "--retrieval", "none", *where]).exit_code == 1


def test_retrieval_refuses_another_vision_tower(windows_cache: Cache, tmp_path: Path) -> None:
    from cope_cli.evaluate.retrieval import measure_retrieval
    from cope_cli.model.checkpoint.folders import save_videolm
    from cope_cli.model.sizes.small import build_small_videolm

    pretrain(windows_cache, pretrain_config(steps=1), tmp_path / "run")
    save_videolm(*build_small_videolm(seed=5, grid_px=GRID_PX), tmp_path / "other", fusion_frames=30)
    with pytest.raises(CheckpointError, match="trained for the vision tower"):
        measure_retrieval("run", windows_cache, tmp_path, model=tmp_path / "other", device="cpu")
    report = measure_retrieval("run", windows_cache, tmp_path, device="cpu")
    # One step in, hardly more than copying; every video of the cache, as the run held out none.
    assert len(report.rows) == 2
    assert report.chosen.startswith("all videos")
    queries = sum(row.num_queries for row in report.rows)
    for rank in (1, 2, 5):
        total = sum(row.vision[rank] * row.num_queries for row in report.rows)
        assert report.overall.vision[rank] == pytest.approx(total / queries)
