"""`cope train check`: against the samples that training reads; `--measure` runs real steps."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from layouts import make_base, write_llava
from train_setup import GRID_PX, SAMPLES, SIZE_PX, finetune_config, write_qa
from typer.testing import CliRunner

from cope_cli.cache.store import Cache
from cope_cli.cli.main import app
from cope_cli.data.datasets import FinetuneDataset
from cope_cli.data.keyframes import KeyframeMix
from cope_cli.data.prompt import PromptBuilder
from cope_cli.data.recipes import read_data
from cope_cli.data.samples import Sample
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import DataError
from cope_cli.model.checkpoint.folders import save_videolm
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.train.check import Spread, check_data
from cope_cli.train.measure import measure_steps


def test_what_is_reported_is_what_training_reads(train_cache: Cache, qa: Path, tmp_path: Path) -> None:
    config = finetune_config(qa, keyframes="1:3,2:1")
    report = check_data(train_cache, config)
    assert report.problems == []
    assert (report.num_items, report.num_entries) == (5, 2)
    model, tokenizer = build_small_videolm(grid_px=GRID_PX)
    index = VideoIndex(train_cache, fusion_frames=30, grid_px=GRID_PX)
    for row, share in zip(report.lengths, (0.75, 0.25), strict=True):
        builder = PromptBuilder(
            tokenizer=tokenizer,
            costs=model.token_costs,
            context_tokens=model.context_tokens,
            keyframes_per_gop=row.keyframes,
        )
        prompts = [builder.finetune(item.turns, _timeline(index, item.video)) for item in read_data(qa).items]
        assert row.totals == tuple(map(len, prompts))
        assert row.total.median == sorted(row.totals)[2]
        assert row.total.max == max(row.totals)
        assert row.visual.min == min(prompt.num_visual_tokens for prompt in prompts)
        assert row.text.max == max(prompt.num_text_tokens for prompt in prompts)
        assert (row.share, row.num_samples, row.num_shortened, row.num_refused) == (share, 5, 0, 0)


def _timeline(index: VideoIndex, video: str) -> Any:
    from cope_cli.cache.primitives import Primitives
    from cope_cli.data.prompt import Timeline

    return Timeline.of(Primitives(index.find(video)))


def test_missing_rgb_slots_are_those_that_training_adds(train_cache: Cache, qa: Path, tmp_path: Path) -> None:
    from cope_cli.stages.frames import ensure_frames

    cache = Cache(tmp_path / "cache")
    shutil.copytree(train_cache.root, cache.root)
    for entry in cache.primitives_entries():
        for part in (entry.folder / "frames" / str(SIZE_PX)).glob("part-*"):
            if part.name != "part-0":
                shutil.rmtree(part)
    config = finetune_config(qa, keyframes="1:1,4:1")
    report = check_data(cache, config)
    model, tokenizer = build_small_videolm(grid_px=GRID_PX)
    builder = PromptBuilder(tokenizer=tokenizer, costs=model.token_costs, context_tokens=model.context_tokens)
    index = VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX)
    mix = KeyframeMix.parse("1:1,4:1")
    dataset = FinetuneDataset(read_data(qa).items, index, builder, size_px=SIZE_PX, keyframes=mix)
    entries = index.entries
    added = sum(ensure_frames(cache, entries[n], SIZE_PX, dataset.rgb_slots(n)) for n in dataset.entry_names)
    assert report.num_frames_missing == added > 0
    assert report.frames_missing_bytes == added * 3 * SIZE_PX**2
    assert check_data(cache, config).num_frames_missing == 0
    assert isinstance(dataset[0], Sample)


def _small_model(folder: Path, context_tokens: int) -> Path:
    model, tokenizer = build_small_videolm(grid_px=GRID_PX)
    model.base.config.text_config.max_position_embeddings = context_tokens
    save_videolm(model, tokenizer, folder, fusion_frames=30)
    return folder


def test_everything_that_is_wrong_is_listed_and_the_exit_code_is_1(train_cache: Cache, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(SAMPLES, root)
    (root / "broken.mp4").write_bytes(b"not a video" * 50)
    cache = Cache(tmp_path / "cache")
    shutil.copytree(train_cache.root, cache.root)
    data = write_qa(tmp_path / "qa.json", ["still_scene-0", "still_scene-1", "camera_pan-1", "still_scene-2"])
    items = json.loads(data.read_text())
    items[1]["conversations"] = []
    items[3]["conversations"][0]["value"] = "Why? " * 400
    items += [{**items[0], "id": name, "video": video} for name, video in
              (("gone", "gone.mp4"), ("broken", "broken.mp4"), ("new", "hard_cut.mp4"))]  # fmt: skip
    data.write_text(json.dumps(items))
    model = _small_model(tmp_path / "model", 300)
    png, options = tmp_path / "out" / "lengths.png", ["--grid", str(GRID_PX), "--keyframes", "1", "--json"]
    command = ["train", "check", "--data", str(data), "--model", str(model), "--cache", str(cache.root)]
    # Videos are found by the ends of their paths: the cache was made from another folder.
    result = CliRunner().invoke(app, [*command, *options, "--out", str(png)])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert sorted(problem["kind"] for problem in report["problems"]) == [
        "malformed", "no entry", "no entry", "no entry", "too long"]  # fmt: skip
    assert report["is_good"] is False
    assert report["lengths"][0]["num_refused"] == 1
    assert report["lengths"][0]["num_shortened"] == 1  # camera_pan has two GOPs
    assert report["lengths"][0]["num_samples"] == 2
    assert png.read_bytes().startswith(b"\x89PNG")
    # With a root, the paths say more.
    result = CliRunner().invoke(app, [*command, *options, "--video-root", str(root)])
    assert result.exit_code == 1
    kinds = {problem["where"].split("'")[1]: problem["kind"] for problem in json.loads(result.stdout)["problems"]}
    assert kinds == {
        "still_scene-0": "no entry",
        "still_scene-1": "malformed",
        "camera_pan-1": "no entry",
        "still_scene-2": "no entry",
        "gone": "missing video",
        "broken": "unreadable video",
        "new": "no entry",
    }
    text = CliRunner().invoke(app, [*command, "--grid", str(GRID_PX), "--keyframes", "1"])
    assert text.exit_code == 1
    assert "no entry: 3" in text.stderr


def test_a_damaged_entry_is_named_and_good_data_exits_with_0(train_cache: Cache, qa: Path, tmp_path: Path) -> None:
    options = ["--grid", str(GRID_PX), "--keyframes", "1", "--json"]
    good = CliRunner().invoke(app, ["train", "check", "--data", str(qa), "--cache", str(train_cache.root), *options])
    assert good.exit_code == 0
    assert json.loads(good.stdout)["is_good"] is True
    cache = Cache(tmp_path / "cache")
    shutil.copytree(train_cache.root, cache.root)
    name = VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX).find("camera_pan.mp4").name
    shutil.rmtree(cache.primitives_folder / f"{name}.zarr" / "slot_gop")
    report = check_data(cache, finetune_config(qa))
    assert {problem.kind for problem in report.problems} <= {"bad entry", "no entry"}
    assert any(problem.kind == "bad entry" and name in problem.where for problem in report.problems)


def test_a_file_of_malformed_items_only_lists_each(train_cache: Cache, tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"id": 1}, {"id": 2}]))
    report = check_data(train_cache, finetune_config(data))
    assert [problem.kind for problem in report.problems] == ["malformed"] * 3
    assert [row.num_samples for row in report.lengths] == [0]
    data.write_text("[")
    with pytest.raises(DataError, match="not JSON"):
        check_data(train_cache, finetune_config(data))


def test_a_published_model_is_measured_without_reading_its_weights(
    train_cache: Cache, qa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cope_cli.model.checkpoint.reading import StoredTensor

    base = make_base(image_px=112, patch_px=16)
    folder = write_llava(base, tmp_path / "model")
    monkeypatch.setattr(StoredTensor, "read", lambda self: pytest.fail("weights were read"))
    report = check_data(train_cache, finetune_config(qa, model=folder, delta_preset="small"))
    assert report.problems == []
    assert report.delta_encoder == "preset small"


def test_percentiles_are_by_nearest_rank() -> None:
    assert Spread.of(range(1, 101)) == Spread(min=1, median=50, p95=95, max=100)
    assert Spread.of([7]) == Spread(min=7, median=7, p95=7, max=7)
    assert Spread.of([]) == Spread(min=0, median=0, p95=0, max=0)
    values = [5, 1, 4, 2, 3]
    assert Spread.of(values).median == statistics.median(values)


def test_measuring_runs_real_steps_and_leaves_nothing_behind(train_cache: Cache, qa: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    steps: list[int] = []
    config = finetune_config(qa, steps=40, save_steps=1)
    measured = measure_steps(
        train_cache, config, runs, num_steps=3, on_progress=lambda step, total, metrics: steps.append(step)
    )
    assert steps == [1, 2, 3]
    assert (measured.num_steps_measured, measured.num_steps_total, measured.num_ranks) == (3, 40, 1)
    assert measured.seconds_total == pytest.approx(40 * measured.seconds_per_step)
    assert measured.seconds_per_step > 0
    assert measured.peak_bytes > 100e6
    entries = [train_cache.primitives_entry(name) for name in train_cache.primitives_names()]
    used = [entry for entry in entries if entry is not None and "hard_cut" not in entry.name]
    disk = {use.what: use.bytes for use in measured.disk}
    assert disk["primitives"] == sum(record.size_bytes for entry in used for record in entry.manifest.files.values())
    assert list(runs.iterdir()) == []


def test_the_command_measures_after_it_has_checked(train_cache: Cache, qa: Path, tmp_path: Path) -> None:
    where = ["--cache", str(train_cache.root), "--runs", str(tmp_path), "--grid", str(GRID_PX), "--keyframes", "1"]
    command = ["train", "check", "--data", str(qa), "--device", "cpu", "--batch-size", "2", *where, "--measure", "2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "Measured over 2 steps on cpu" in result.stdout
    assert "whole run, 150 steps" in result.stdout
    measured = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["measured"]
    assert measured["num_steps_total"] == 150
