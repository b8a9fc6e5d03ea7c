"""The folder of clips: the same bytes for the same seed, resumable, whole or not there, splits apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from drawn_worlds import drawn

from cope_cli.errors import UsageError
from cope_cli.world.config import SPLITS, WorldConfig
from cope_cli.world.records import Clip
from cope_cli.world.sheet import write_sheet
from cope_cli.world.write import draw_world, read_scenes, world_batch

CONFIG = WorldConfig(seed=3, size_px=64, two_gops=0.3)


def written(
    folder: Path, config: WorldConfig = CONFIG, num_clips: int = 8, *, workers: int = 1, force: bool = False
) -> tuple[int, int]:
    """Write a world; returns how many clips were new and how many were kept."""
    clips, items = draw_world(config, num_clips)
    new = kept = 0
    for outcome in world_batch(config, clips, items, folder, workers=workers, force=force).run():
        assert outcome.result is not None, outcome.error
        new, kept = new + outcome.result.num_new, kept + outcome.result.num_kept
    return new, kept


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    assert written(folder) == (8, 0)
    return folder


def test_a_folder_has_clips_records_questions_and_settings(world_folder):
    assert {path.name for path in world_folder.iterdir()} == {
        *("clips", "questions.json", "scenes.jsonl", "settings.json")
    }
    clips = read_scenes(world_folder / "scenes.jsonl")
    assert clips == draw_world(CONFIG, 8)[0]
    assert {path.stem for path in (world_folder / "clips").iterdir()} == {clip.name for clip in clips}
    items = json.loads((world_folder / "questions.json").read_text())
    assert all((world_folder / item["video"]).is_file() for item in items)


def test_the_same_seed_gives_the_same_bytes(world_folder, tmp_path):
    written(tmp_path)
    assert hashes(tmp_path) == hashes(world_folder)


def test_what_is_missing_is_made_again_and_the_rest_is_kept(world_folder, tmp_path):
    written(tmp_path)
    expected = hashes(tmp_path)
    clips = sorted((tmp_path / "clips").iterdir())
    before = clips[1].stat().st_mtime_ns
    clips[0].unlink()
    assert written(tmp_path) == (1, 7)
    assert hashes(tmp_path) == expected
    assert clips[1].stat().st_mtime_ns == before
    assert written(tmp_path, num_clips=12) == (4, 8)
    assert {name: digest for name, digest in hashes(tmp_path).items() if name in expected and "clips" in name} == {
        name: digest for name, digest in expected.items() if "clips" in name
    }


def test_other_settings_are_refused_by_name_and_replaced_by_force(tmp_path):
    written(tmp_path, num_clips=4)
    other = WorldConfig(seed=4, size_px=64, two_gops=0.3)
    with pytest.raises(UsageError, match=r"other settings \(seed\)"):
        written(tmp_path, other, num_clips=4)
    assert written(tmp_path, other, num_clips=4, force=True) == (4, 0)


def test_fewer_twins_are_the_first_of_each_group_with_the_same_questions(tmp_path):
    clips, items = draw_world(CONFIG, 8)
    some_clips, some_items = draw_world(CONFIG, 4, twins=2)
    assert some_clips == [clip for clip in clips if clip.twin < 2]
    names = {f"clips/{clip.name}.mp4" for clip in some_clips}
    assert some_items == [item for item in items if item["video"] in names]
    assert all(outcome.error is None for outcome in world_batch(CONFIG, some_clips, some_items, tmp_path).run())
    assert {f"clips/{path.name}" for path in (tmp_path / "clips").iterdir()} == names


@pytest.mark.parametrize(("count", "twins"), [(3, 2), (0, 1), (4, 0), (5, 5)])
def test_twins_are_one_to_four_and_fit_the_number_of_clips(count, twins):
    with pytest.raises(UsageError, match=r"--twins|--num"):
        draw_world(CONFIG, count, twins=twins)


@pytest.mark.slow
def test_two_workers_write_what_one_does(tmp_path):
    for workers in (1, 2):
        written(tmp_path / str(workers), num_clips=40, workers=workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")


def test_splits_and_seeds_have_no_clip_in_common():
    worlds = [drawn(80, seed=seed, split=split) for seed in (0, 1) for split in SPLITS]
    worlds.append(drawn(80, seed=0, objects="1"))
    names = [clip.name for world in worlds for clip in world.clips]
    assert len(set(names)) == len(names)
    starts = [{clip.shots[0].background_seed for clip in world.clips} for world in worlds[:6]]
    assert all(not a & b for number, a in enumerate(starts) for b in starts[number + 1 :])


@pytest.mark.parametrize("count", [0, 2, 6, -4])
def test_clips_come_in_whole_groups(count):
    with pytest.raises(UsageError, match="--num"):
        draw_world(CONFIG, count)


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"seed": -1}, "--seed"),
        ({"split": "all"}, "--split"),
        ({"size_px": 100}, "--size"),
        ({"objects": "5"}, "--objects"),
        ({"objects": "3-2"}, "--objects"),
        ({"objects": "some"}, "--objects"),
        ({"two_gops": 1.5}, "--two-gops"),
    ],
)
def test_a_wrong_setting_names_its_flag(fields, flag):
    with pytest.raises(UsageError, match=flag):
        WorldConfig(**fields)


def test_the_one_object_world_has_one_object_and_a_camera_that_stands_still(one_object_world):
    for clip in one_object_world.clips:
        assert [len(shot.things) for shot in clip.shots] == [1]
        assert clip.shots[0].pan is None


def test_the_share_of_long_clips_is_what_was_asked_for():
    def long(clip: Clip) -> bool:
        return clip.num_frames == 480

    assert not any(map(long, drawn(200, two_gops=0).clips))
    assert all(map(long, drawn(40, two_gops=1).clips))
    assert 0.3 < sum(map(long, drawn(400, two_gops=0.5).clips)) / 400 < 0.7


def test_a_sheet_is_a_picture_of_the_clips(tmp_path):
    from PIL import Image

    clips, items = draw_world(CONFIG, 4)
    write_sheet(tmp_path / "sheet.png", clips, items)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 8 * 64
        assert picture.height >= sum(clip.num_frames // 240 * 64 for clip in clips)
        assert len(picture.getcolors(2**24) or []) > 1000
