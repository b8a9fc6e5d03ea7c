"""`cope train check`: against the samples that training reads, and what a step of the small model really keeps."""

from __future__ import annotations

import json
import shutil
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import make_base, write_llava
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
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
from cope_cli.model.batch import IGNORED_LABEL, VideoLMBatch
from cope_cli.model.checkpoint.folders import save_videolm
from cope_cli.model.sizes.geometry import GEOMETRIES, base_config, geometry_of
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.model.token_plan import TokenKind, plan_tokens
from cope_cli.model.videolm import VideoLM
from cope_cli.train.check import Spread, check_data
from cope_cli.train.costs import SampleSize, Training, step_flops, step_memory
from cope_cli.train.finetune.trainable import num_parameters, set_trainable


def test_what_is_reported_is_what_training_reads(train_cache: Cache, qa: Path, tmp_path: Path) -> None:
    config = finetune_config(qa, keyframes="1:3,2:1")
    report = check_data(train_cache, config, tflops=2.0)
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
    assert report.cost is not None
    assert report.cost.seconds == pytest.approx(report.cost.flops / 2e12)
    assert report.cost.longest.num_tokens == max(report.lengths[1].totals)


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
    assert report["cost"]["memory"]["total"] > report["cost"]["memory"]["weights"]
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
    assert "Memory of one unsharded device" in text.stdout


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
    assert report.cost is None
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
    assert report.cost is not None
    ours = build_small_videolm(grid_px=GRID_PX)[0].delta_encoder
    assert ours is not None
    assert report.cost.num_parameters > sum(p.numel() for p in base.parameters())
    assert report.delta_encoder == "preset small"


def test_percentiles_are_by_nearest_rank() -> None:
    assert Spread.of(range(1, 101)) == Spread(min=1, median=50, p95=95, max=100)
    assert Spread.of([7]) == Spread(min=7, median=7, p95=7, max=7)
    assert Spread.of([]) == Spread(min=0, median=0, p95=0, max=0)
    values = [5, 1, 4, 2, 3]
    assert Spread.of(values).median == statistics.median(values)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_geometry_is_read_back_from_its_configuration(name: str) -> None:
    expected = replace(GEOMETRIES[name], name="own", description="read from config.json", delta_preset="paper")
    assert geometry_of(base_config(GEOMETRIES[name])) == expected


def _batch(model: VideoLM, num_text: int, num_slots: int, num_samples: int, num_learned: int) -> VideoLMBatch:
    plan = plan_tokens([0] * num_slots, keyframes_per_gop=1, costs=model.token_costs)
    kinds = torch.tensor([[*plan.token_kinds(), *[int(TokenKind.TEXT)] * num_text]] * num_samples, dtype=torch.uint8)
    ids = torch.ones(kinds.shape, dtype=torch.int64)
    labels = ids.clone()
    labels[:, :-num_learned] = IGNORED_LABEL
    mask = torch.ones_like(ids)
    mask[1:, -1] = 0  # as where shorter samples are padded
    num_p = (num_slots - 1) * num_samples
    return VideoLMBatch(
        input_ids=ids,
        token_kind=kinds,
        attention_mask=mask,
        labels=labels,
        rgb=torch.zeros((num_samples, SIZE_PX, SIZE_PX, 3), dtype=torch.uint8),
        motion=torch.zeros((num_p, 2, GRID_PX, GRID_PX), dtype=torch.int16),
        residual=torch.zeros((num_p, GRID_PX, GRID_PX, 3), dtype=torch.int16),
        frame_size_px=torch.full((num_p, 2), 64, dtype=torch.int32),
    )


def _training(model: VideoLM, *, batch_size: int, **changes: Any) -> Training:
    assert model.delta_encoder is not None
    return Training(
        geometry=geometry_of(model.base.config),
        delta=model.delta_encoder.config,
        num_parameters=num_parameters(model),
        num_trained=num_parameters(model, trained_only=True),
        batch_size=batch_size,
        **changes,
    )


def _size(batch: VideoLMBatch) -> SampleSize:
    assert batch.labels is not None
    num = len(batch.input_ids)
    return SampleSize(
        num_rgb=len(batch.rgb) // num,
        num_p=len(batch.motion) // num,
        num_tokens=batch.input_ids.shape[1],
        num_answer_tokens=int((batch.labels != IGNORED_LABEL).sum()) // num,
    )


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("train_vision", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_memory_formula_is_what_the_backward_pass_is_given(
    bf16: bool, train_vision: bool, num_samples: int
) -> None:
    model = build_small_videolm(grid_px=GRID_PX)[0].train()
    set_trainable(model, train_vision=train_vision)
    batch = _batch(model, num_text=400, num_slots=12, num_samples=num_samples, num_learned=40)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # the reference keeps the address from being used again
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        model(batch)
    measured = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)
    memory = step_memory(_training(model, batch_size=num_samples, bf16=bf16, train_vision=train_vision), _size(batch))
    counted = memory.activations + memory.bf16_copies
    assert counted == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("freeze", [(), ("llm",), ("projector",), ("delta-encoder",)])
@pytest.mark.parametrize("train_vision", [False, True])
def test_the_operations_of_a_step_are_those_that_are_counted_while_it_runs(
    freeze: tuple[str, ...], train_vision: bool
) -> None:
    model = build_small_videolm(grid_px=GRID_PX)[0].train()
    set_trainable(model, train_vision=train_vision, freeze=freeze)
    batch = _batch(model, num_text=100, num_slots=12, num_samples=1, num_learned=20)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(batch).loss.backward()
    training = _training(
        model,
        batch_size=1,
        train_vision=train_vision,
        train_language="llm" not in freeze,
        train_projector="projector" not in freeze,
        train_delta="delta-encoder" not in freeze,
    )
    counted = step_flops(training, {name: float(value) for name, value in asdict(_size(batch)).items()})
    # The counter takes causal attention in full, and knows that inputs of the first layers need no gradient.
    geometry, tokens = training.geometry, batch.input_ids.shape[1]
    upper_triangle = 3 * geometry.num_layers * 4 * geometry.width * tokens * (tokens - 1) / 2
    assert counted + upper_triangle == pytest.approx(counter.get_total_flops(), rel=0.05)
    twice = replace(training, batch_size=2, accumulate=3)
    assert step_flops(twice, asdict(_size(batch))) == pytest.approx(6 * counted)
