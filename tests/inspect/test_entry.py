"""What is shown of a video: what the cache holds of its present content, or what the missing stages make."""

from __future__ import annotations

import shutil

import pytest

from cope_cli.config import EncodeConfig
from cope_cli.errors import PathNotFoundError, UsageError
from cope_cli.inspect.entry import find_entry
from cope_cli.stages.encode import encode_video
from made_videos import pictures, write_video


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


def test_what_is_nowhere_is_named(shared_cache):
    with pytest.raises(PathNotFoundError, match=r"no/such\.mp4: no such file, and .* holds no entry of that name"):
        find_entry("no/such.mp4", shared_cache.cache)


def test_a_window_out_of_range_names_its_flag(shared_cache):
    with pytest.raises(UsageError, match="--fusion 0"):
        find_entry(shared_cache.primitives, shared_cache.cache, fusion_frames=0)
