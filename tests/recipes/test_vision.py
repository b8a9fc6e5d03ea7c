"""The vision stage: targets from records, training, resuming, and what pre-training makes of the result."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from train_setup import Killed, kill_at, losses

from cope_cli.cache.store import Cache
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import DataError, PathNotFoundError, UsageError
from cope_cli.model.checkpoint.folders import load_delta_encoder, load_videolm
from cope_cli.runs import RunFolder
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.train.pretrain.config import PretrainConfig
from cope_cli.train.pretrain.stage import pretrain
from cope_cli.world.config import WorldConfig
from cope_cli.world.records import COLOURS
from cope_cli.world.words import CELLS
from cope_cli.world.write import draw_world, world_batch
from recipes.cope_tiny.config import VisionConfig
from recipes.cope_tiny.model import SIZE_PX
from recipes.cope_tiny.vision import HEADS_FILE, train_vision
from recipes.cope_tiny.vision_data import (
    COLOUR_NAMES,
    PictureDataset,
    Seen,
    VisionDataset,
    patch_targets,
    read_clips,
    seen_things,
)

GRID_PX = 32


def share_of_right_colours(samples: Iterable[Any]) -> tuple[float, int]:
    """Of the things of some pictures, how many have their colour where their target says that they are."""
    palette = np.array([COLOURS[name] for name in COLOUR_NAMES], np.float64)
    right = total = 0
    for rgb, targets in samples:
        for patch in np.flatnonzero(targets.is_centre):
            place = np.asarray(targets.place)[patch]
            x, y = ((np.array([patch % 8, patch // 8]) + 0.5 + place[:2]) * 16).astype(int)
            around = rgb[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].mean((0, 1))
            found = np.abs(palette - around).sum(1).argmin()
            right, total = right + int(found == np.asarray(targets.colour)[patch]), total + 1
    return right / total, total


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cache]:
    """Four clips, two of them in the cache."""
    root = tmp_path_factory.mktemp("world")
    config = WorldConfig(objects="2")
    for outcome in world_batch(config, *draw_world(config, 4), root / "clips-of-four", workers=1).run():
        assert outcome.error is None
    cache = Cache(root / "cache")
    for path in sorted((root / "clips-of-four" / "clips").glob("*.mp4"))[:2]:
        encoded = encode_video(path, cache, EncodeConfig())
        extract_video(encoded.name, cache, ExtractConfig(grid_px=GRID_PX))
    return root / "clips-of-four", cache


def config(data: Path, **changes: Any) -> VisionConfig:
    values = {"data": (data,), "grid_px": GRID_PX, "batch_size": 4, "steps": 6, "save_steps": 3, "device": "cpu"}
    values |= {"optimizer": "muon"}  # its state has to survive a checkpoint too
    return VisionConfig(**{**values, "num_pictures": 16, "eval_frames": 2, **changes})


def test_a_patch_shows_what_covers_its_centre_the_nearest_of_several() -> None:
    red = Seen(colour="red", shape="circle", x=0.3, y=0.55, radius=0.16, depth=1)
    blue = Seen(colour="blue", shape="square", x=0.5, y=0.55, radius=0.16, depth=0)
    targets = patch_targets([red, blue], 8)
    row = slice(4 * 8, 5 * 8)  # patch centres at y = 4.5 / 8, x = 0.5 / 8, 1.5 / 8, ...
    assert np.asarray(targets.is_seen)[row].tolist() == [False, True, True, True, True, True, False, False]
    colours = [COLOUR_NAMES[colour] for colour in np.asarray(targets.colour)[row][1:6]]
    assert colours == ["red", "red", "blue", "blue", "blue"]  # the third is covered by both
    assert np.flatnonzero(targets.is_centre).tolist() == [4 * 8 + 2, 4 * 8 + 4]
    cells = [CELLS[cell] for cell in np.asarray(targets.cell)[row][1:6]]
    assert cells == ["left", "left", "middle", "middle", "middle"]  # of the thing, not of the patch
    place = np.asarray(targets.place)[4 * 8 + 1]
    assert place == pytest.approx([(0.3 - 1.5 / 8) * 8, (0.55 - 4.5 / 8) * 8, 0.16 * 8], abs=1e-5)


def test_what_is_seen_is_where_the_picture_has_its_colour(world: tuple[Path, Cache]) -> None:
    folder, cache = world
    clips = read_clips(folder)
    index = VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX)
    from cope_cli.stages.frames import ensure_frames

    for entry in index.entries.values():
        ensure_frames(cache, entry, SIZE_PX, range(8))
    dataset = VisionDataset(clips, index, size_px=SIZE_PX, patches_per_side=8)
    assert len(dataset) == 16
    share, total = share_of_right_colours(dataset[number] for number in range(len(dataset)))
    assert total >= 16
    assert share > 0.9


def test_pictures_are_drawn_anew_in_every_epoch_and_the_same_again_by_number() -> None:
    worlds = [WorldConfig(objects="1"), WorldConfig(objects="3")]
    dataset, again = (PictureDataset(worlds, 20, size_px=SIZE_PX, patches_per_side=8) for _ in range(2))
    first = [dataset[number] for number in range(20)]
    assert [targets.is_centre.sum() > 1 for _, targets in first] == [number % 2 == 1 for number in range(20)]
    assert share_of_right_colours(first)[0] > 0.9
    assert np.array_equal(again[19][0], first[19][0])
    dataset.set_epoch(1)
    assert not any(np.array_equal(dataset[number][0], first[number][0]) for number in range(20))
    val = PictureDataset([WorldConfig(objects="1", split="val")], 1, size_px=SIZE_PX, patches_per_side=8)
    assert not np.array_equal(val[0][0], first[0][0])
    with pytest.raises(UsageError, match="clips of 64 pixels"):
        PictureDataset([WorldConfig(size_px=64)], 1, size_px=SIZE_PX, patches_per_side=8)


def test_what_happened_by_a_frame_counts(world: tuple[Path, Cache]) -> None:
    clip = next(iter(read_clips(world[0]).values()))
    assert {thing.colour for thing in seen_things(clip, 0)} == {
        thing.colour for thing in clip.shots[0].things if thing.is_there
    }
    with pytest.raises(ValueError, match="which has"):
        seen_things(clip, clip.num_frames)


def test_it_learns_resumes_exactly_and_pre_training_goes_on_from_it(world: tuple[Path, Cache], tmp_path: Path) -> None:
    folder, cache = world
    whole, broken = (RunFolder(tmp_path / name / "run", "vision") for name in ("whole", "broken"))
    train_vision(cache, config(folder), whole.path)
    with pytest.raises(Killed):
        train_vision(cache, config(folder), broken.path, on_progress=kill_at(5))
    kept = torch.load(broken.path / "checkpoint-3" / "optimizer.pt", weights_only=True)["state"].values()
    assert {"momentum"} in (set(state) for state in kept)  # of Muon
    assert {"step", "exp_avg", "exp_avg_sq"} in (set(state) for state in kept)  # of AdamW
    result = train_vision(cache, config(folder), broken.path, resume=True)
    assert losses(broken.metrics()) == losses(whole.metrics())
    for file in whole.result.glob("*.safetensors"):
        assert (result / file.name).read_bytes() == file.read_bytes(), file.name
    assert whole.metrics()[-1]["loss"] < whole.metrics()[0]["loss"]
    loaded = load_videolm(whole.path / "model")
    assert loaded.model.delta_encoder is None
    assert (whole.result / HEADS_FILE).is_file()

    settings = PretrainConfig(
        model=whole.path, recipe="small", delta_preset="tiny", grid_px=GRID_PX, steps=1, batch_size=2, held_out=0.0
    )
    pretrained = load_delta_encoder(pretrain(cache, settings, tmp_path / "pretrain"))
    assert pretrained.vision_sha256 == loaded.vision_sha256
    assert pretrained.alignment is not None
    assert pretrained.alignment.config.width == 128


def test_it_is_evaluated_on_slots_of_clips(world: tuple[Path, Cache], tmp_path: Path) -> None:
    folder, cache = world
    notes: list[str] = []
    run = RunFolder(tmp_path / "run", "vision")
    train_vision(cache, config(folder, steps=1), run.path, on_note=notes.append)
    record = json.loads(run.config_file.read_text())
    assert len(record["cache_entries"]) == 2
    assert 0 <= record["slots_of_clips"]["colour_right"] <= 1
    assert "colour_right" in notes[0]


def test_it_goes_on_from_another_run_with_its_heads_and_on_other_pictures(
    world: tuple[Path, Cache], tmp_path: Path
) -> None:
    folder, cache = world
    first, second = (RunFolder(tmp_path / name, "vision") for name in ("first", "second"))
    train_vision(cache, config(folder, steps=2), first.path)
    train_vision(cache, config(folder, steps=1, model=first.path, seed=1, learning_rate=1e-9), second.path)
    for file in (HEADS_FILE, "model.safetensors"):
        before, after = (load_file(run.result / file) for run in (first, second))
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)
    assert second.metrics()[0]["loss"] != first.metrics()[-1]["loss"]
    assert json.loads(second.config_file.read_text())["base_model"] == str(first.result)


def test_a_folder_without_records_or_a_model_is_refused(world: tuple[Path, Cache], tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError, match=r"settings\.json"):
        train_vision(world[1], config(tmp_path), tmp_path / "run")
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(DataError, match="not the settings of a world"):
        train_vision(world[1], config(tmp_path), tmp_path / "run")
    with pytest.raises(PathNotFoundError, match=r"scenes\.jsonl"):
        read_clips(tmp_path)
    (tmp_path / "scenes.jsonl").write_text('{"name": "a"}\n')
    with pytest.raises(DataError, match="line 1"):
        read_clips(tmp_path)
    with pytest.raises(UsageError, match="--model"):
        train_vision(world[1], config(world[0], model=tmp_path / "other"), tmp_path / "run")
    with pytest.raises(UsageError, match="--data"):
        VisionConfig(data=())


def test_the_tower_alone_learns(world: tuple[Path, Cache], tmp_path: Path) -> None:
    folder, cache = world
    before = {}

    def note(record: Any) -> None:
        before["sha"] = record["vision_sha256"]

    result = train_vision(cache, config(folder, steps=1), tmp_path / "run", on_begin=note)
    loaded = load_videolm(result)
    assert loaded.vision_sha256 != before["sha"]
    from cope_cli.world.words import vocabulary
    from recipes.cope_tiny.model import build_tiny_videolm

    fresh, _ = build_tiny_videolm(vocabulary(), seed=0)
    for name, value in fresh.base.model.language_model.state_dict().items():
        torch.testing.assert_close(loaded.model.base.model.language_model.state_dict()[name], value)
