"""What is shown of a video: what the cache holds of its present content, or what the missing stages make."""

from __future__ import annotations

import shutil

import pytest
from made_videos import pictures, write_video

from cope_cli.cache.store import Cache
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig
from cope_cli.errors import PathNotFoundError, UsageError
from cope_cli.inspect.entry import find_entry
from cope_cli.stages.direct import extract_direct
from cope_cli.stages.encode import encode_video


def never(stage: str, done: float, total: float) -> None:
    raise AssertionError(f"{stage} ran")


@pytest.mark.parametrize("by", ["path", "name", "encoded name", "end of the path", "copy"])
def test_a_video_that_is_in_the_cache_is_read_from_there(shared_cache, tmp_path, by):
    copy = tmp_path / "copy.mp4"
    shutil.copy(shared_cache.source, copy)
    wanted = {
        "path": str(shared_cache.source),
        "name": shared_cache.primitives,
        "encoded name": shared_cache.encoded,
        "end of the path": shared_cache.source.name,
        "copy": str(copy),
    }[by]
    found = find_entry(wanted, shared_cache.cache, on_stage=never)
    assert found.entry.name == shared_cache.primitives
    assert found.notes == ()


def test_another_window_is_extracted_from_the_encoded_video_that_is_there(filled_cache):
    found = find_entry(filled_cache.primitives, filled_cache.cache, fusion_frames=15)
    assert found.entry.manifest.config["fusion_frames"] == 15
    assert found.entry.encoded_name == filled_cache.encoded
    assert found.notes == (f"ran extract first: {found.entry.name}",)
    assert len(filled_cache.cache.encoded_names()) == 1


def test_of_several_entries_the_default_window_is_shown_and_the_others_are_named(filled_cache):
    default = find_entry(filled_cache.primitives, filled_cache.cache, fusion_frames=30).entry.name
    found = find_entry(str(filled_cache.source), filled_cache.cache, on_stage=never)
    assert found.entry.name == default
    assert filled_cache.primitives in found.notes[0]


def test_a_new_video_goes_through_both_stages(tmp_path, filled_cache):
    video = write_video(tmp_path / "new.mp4", pictures(12))
    stages = set()
    found = find_entry(
        str(video), filled_cache.cache, fusion_frames=5, on_stage=lambda stage, done, total: stages.add(stage)
    )
    assert stages == {"encode", "extract"}
    assert found.notes == (f"ran encode and extract first: {found.entry.name}",)
    assert found.entry.source_path == video.resolve()


def test_a_file_that_changed_is_encoded_again(tmp_path, filled_cache):
    video = write_video(tmp_path / "video.mp4", pictures(12))
    before = find_entry(str(video), filled_cache.cache, fusion_frames=5).entry
    write_video(video, pictures(14, x_px=2))
    after = find_entry(str(video), filled_cache.cache, fusion_frames=5).entry
    assert after.manifest.info["num_frames"] == 14
    assert before.name != after.name


def test_by_name_primitives_are_found_whose_encoded_video_is_gone(filled_cache):
    shutil.rmtree(filled_cache.cache.encoded_folder)
    assert (
        find_entry(filled_cache.source.name, filled_cache.cache, on_stage=never).entry.name == filled_cache.primitives
    )


def test_damaged_primitives_are_made_again_for_a_file(filled_cache):
    encode_video(filled_cache.source, filled_cache.cache, EncodeConfig(gop_frames=30))
    next(filled_cache.group.glob("motion/c*")).unlink()
    found = find_entry(str(filled_cache.source), filled_cache.cache, fusion_frames=10)
    assert found.notes == (f"ran extract first: {found.entry.name}",)


@pytest.fixture
def direct(shared_cache, tmp_path) -> tuple[Cache, str]:
    """A cache that holds the clip read directly, in windows of 10, and nothing else; and the entry's name."""
    cache = Cache(tmp_path / "cache")
    config = DirectConfig(extract=ExtractConfig(fusion_frames=10, grid_px=32))
    return cache, extract_direct(shared_cache.source, cache, config).name


@pytest.mark.parametrize("by", ["path", "name", "end of the path", "copy"])
def test_a_video_that_was_read_directly_is_shown_without_re_encoding(shared_cache, direct, tmp_path, by):
    cache, name = direct
    copy = tmp_path / "copy.mp4"
    shutil.copy(shared_cache.source, copy)
    wanted = {"path": str(shared_cache.source), "name": name, "end of the path": "clip.mp4", "copy": str(copy)}[by]
    assert find_entry(wanted, cache, on_stage=never).entry.name == name


@pytest.mark.parametrize("by", ["name", "end of the path"])
def test_another_window_of_a_direct_entry_is_read_directly_too(direct, by):
    cache, name = direct
    found = find_entry(name if by == "name" else "clip.mp4", cache, fusion_frames=15).entry
    assert found.is_direct and found.manifest.config["fusion_frames"] == 15
    assert find_entry(name, cache, fusion_frames=15, on_stage=never).entry.name == found.name
    assert cache.encoded_names() == []


def test_a_direct_entry_of_what_a_file_held_before_is_not_shown(tmp_path):
    cache, video = Cache(tmp_path / "cache"), write_video(tmp_path / "a.mp4", pictures(12))
    before = extract_direct(video, cache, DirectConfig()).name
    write_video(video, pictures(14, x_px=2))
    assert find_entry(str(video), cache).entry.name != before


def test_fixed_and_adaptive_windows_are_not_taken_for_each_other(filled_cache):
    fixed = find_entry(str(filled_cache.source), filled_cache.cache, fusion_frames=12).entry
    adaptive = find_entry(str(filled_cache.source), filled_cache.cache, fusion_frames=12, adaptive=True).entry
    assert adaptive.manifest.config["adaptive"] and "adaptive" not in fixed.manifest.config
    for entry, is_adaptive in ((fixed, False), (adaptive, True)):
        again = find_entry(entry.name, filled_cache.cache, fusion_frames=12, adaptive=is_adaptive, on_stage=never)
        assert again.entry.name == entry.name
        other = find_entry(entry.name, filled_cache.cache, fusion_frames=12, adaptive=not is_adaptive, on_stage=never)
        assert other.entry.name != entry.name


def test_what_is_nowhere_is_named(shared_cache):
    with pytest.raises(PathNotFoundError, match=r"no/such\.mp4: no such file, and .* holds no entry of that name"):
        find_entry("no/such.mp4", shared_cache.cache)


def test_a_window_out_of_range_names_its_flag(shared_cache):
    with pytest.raises(UsageError, match="--fusion 0"):
        find_entry(shared_cache.primitives, shared_cache.cache, fusion_frames=0)
