from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_cache import GRID_PX, SAMPLES, add_to_cache

from cope_cli.cache.store import Cache
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import EntryNotFoundError


@pytest.fixture(scope="module")
def same_name_twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, Path]:
    """`a/clip.mp4` and `b/clip.mp4`, two different videos, and `b/other.mp4` with another fusion window."""
    root = tmp_path_factory.mktemp("videos")
    cache = Cache(root / "cache")
    for source, target in (("still_scene", "a/clip.mp4"), ("camera_pan", "b/clip.mp4")):
        (root / target).parent.mkdir(exist_ok=True)
        shutil.copy(SAMPLES / f"{source}.mp4", root / target)
        add_to_cache(cache, root / target)
    shutil.copy(SAMPLES / "hard_cut.mp4", root / "b/other.mp4")
    add_to_cache(cache, root / "b/other.mp4", fusion=60)
    return cache, root


def test_the_last_parts_of_the_path_find_the_entry(same_name_twice: tuple[Cache, Path]) -> None:
    cache, root = same_name_twice
    index = VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX)
    for wanted in ("a/clip.mp4", "b/clip.mp4"):
        assert index.find(wanted).source_path == (root / wanted).resolve()
    assert index.find(str(root / "a/clip.mp4")).source_path == (root / "a/clip.mp4").resolve()


def test_a_name_that_fits_two_entries_is_refused_with_both(same_name_twice: tuple[Cache, Path]) -> None:
    cache, root = same_name_twice
    index = VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX)
    with pytest.raises(EntryNotFoundError, match=r"2 entries match clip\.mp4") as caught:
        index.find("clip.mp4")
    for name in index.entries:
        assert name in caught.value.message
    assert index.find("clip.mp4", video_root=root / "a").source_path.parent.name == "a"


def test_a_video_root_asks_for_the_exact_path(same_name_twice: tuple[Cache, Path]) -> None:
    cache, root = same_name_twice
    index = VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX)
    assert index.find("a/clip.mp4", video_root=root).source_path == (root / "a/clip.mp4").resolve()
    with pytest.raises(EntryNotFoundError, match=r"elsewhere/a/clip\.mp4"):
        index.find("a/clip.mp4", video_root=root / "elsewhere")


def test_a_missing_video_names_the_commands_and_what_comes_near(same_name_twice: tuple[Cache, Path]) -> None:
    cache, _ = same_name_twice
    index = VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX)
    with pytest.raises(EntryNotFoundError, match=r"no primitives of absent\.mp4 with fusion window 30") as caught:
        index.find("absent.mp4")
    assert "cope encode absent.mp4" in caught.value.hint
    assert f"cope extract --fusion 30 --grid {GRID_PX}" in caught.value.hint
    with pytest.raises(EntryNotFoundError, match=f"there are some with window 60 and grid {GRID_PX}"):
        index.find("other.mp4")
    assert VideoIndex(cache, fusion_frames=60, grid_px=GRID_PX).find("other.mp4").name in cache.primitives_names()


def test_an_entry_that_cannot_be_used_is_kept_and_named(same_name_twice: tuple[Cache, Path], tmp_path: Path) -> None:
    broken = Cache(tmp_path / "cache")
    shutil.copytree(same_name_twice[0].root, broken.root)
    name = VideoIndex(broken, fusion_frames=60, grid_px=GRID_PX).find("other.mp4").name
    (broken.primitives_folder / f"{name}.zarr" / "manifest.json").write_text("{}")
    index = VideoIndex(broken, fusion_frames=60, grid_px=GRID_PX)
    assert list(index.errors) == [name]
    with pytest.raises(EntryNotFoundError, match=r"1 entries cannot be used, the first: .*not a manifest"):
        index.find("other.mp4")
