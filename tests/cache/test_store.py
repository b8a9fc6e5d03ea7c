"""Names, keys, what is found by which name, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_videos import pictures, write_video

from cope_cli.cache.listing import list_cache
from cope_cli.cache.manifest import FileRecord, Manifest, fingerprint
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.prune import find_named, find_removable
from cope_cli.cache.store import Cache, entry_name
from cope_cli.cache.temporary import commit_folder
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import CacheCorruptError, CacheVersionError, EntryNotFoundError
from cope_cli.files import write_json
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.sources import find_videos
from cope_cli.stages.verify import verify_encoded, verify_primitives

KEY = "0123456789abcdef" * 4
OTHER_VALUES = {
    "adaptive": True,
    "four_vectors": True,
    "fps": 25,
    "gop_frames": 120,
    "short_side_px": 0,
    "quality": 5,
    "stream": 1,
    "fusion_frames": 15,
    "grid_px": 64,
    "keep_tail": True,
}


def rewrite_manifest(path: Path, **changes: object) -> None:
    """Change a manifest the way another program would: with a right checksum."""
    data = json.loads(path.read_text())
    del data["manifest_sha256"]
    files = {name: FileRecord(**record) for name, record in data.pop("files").items()}
    Manifest(**{**data, "files": files, **changes}).write(path)


# Keys and names


@pytest.mark.parametrize("config", [EncodeConfig(), ExtractConfig()])
def test_every_setting_changes_the_fingerprint(config: EncodeConfig | ExtractConfig):
    base = fingerprint("stage", 1, "0" * 64, config.to_dict())
    seen = {base}
    for field in fields(config):
        changed = replace(config, **{field.name: OTHER_VALUES[field.name]})
        seen.add(fingerprint("stage", 1, "0" * 64, changed.to_dict()))
    seen |= {
        fingerprint("other", 1, "0" * 64, config.to_dict()),
        fingerprint("stage", 2, "0" * 64, config.to_dict()),
        fingerprint("stage", 1, "1" * 64, config.to_dict()),
    }
    assert len(seen) == 1 + len(fields(config)) + 3
    assert fingerprint("stage", 1, "0" * 64, dict(reversed(config.to_dict().items()))) == base


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("clip", "clip"),
        ("My holiday (1)", "My_holiday_1_"),
        ("видео", "_"),
        ("..hidden", "hidden"),
        ("--help", "help"),
        ("a/b\\c:d", "a_b_c_d"),
        ("...", "video"),
        ("", "video"),
        ("x" * 300, "x" * 80),
        ("a.b.c", "a.b.c"),
    ],
)
def test_names_are_safe_in_every_file_system(stem: str, name: str):
    assert entry_name(stem, KEY) == f"{name}-01234567"


@given(st.text(max_size=300))
def test_any_stem_gives_a_plain_file_name(stem: str):
    name = entry_name(stem, KEY)
    assert name.isascii() and name == Path(name).name and not name.startswith((".", "-"))
    assert len(name) <= 89 and name.endswith("-01234567")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@pytest.mark.parametrize("stem", ["x" * 200, "мой клип", "-rf", "a b"])
def test_videos_of_any_name_go_through_both_stages(clip: Path, tmp_path: Path, stem: str):
    source = tmp_path / f"{stem}.mp4"
    shutil.copy(clip, source)
    cache = Cache(tmp_path / "cache")
    encoded = encode_video(source, cache, EncodeConfig(fps=4))
    record = extract_video(encoded.name, cache, ExtractConfig(fusion_frames=5, grid_px=16))
    assert verify_encoded(encoded.name, cache) and verify_primitives(record.name, cache).is_compared
    assert [entry.name for entry in cache.find_encoded(str(source))] == [encoded.name]


# Finding


@pytest.mark.parametrize("form", ["name", "path", "file name", "stem", "last two parts"])
def test_an_encoded_video_is_found_by(shared_cache, form: str):
    source = shared_cache.source
    wanted = {
        "name": shared_cache.encoded,
        "path": str(source),
        "file name": source.name,
        "stem": source.stem,
        "last two parts": f"{source.parent.name}/{source.name}",
    }[form]
    assert [entry.name for entry in shared_cache.cache.find_encoded(wanted)] == [shared_cache.encoded]


@pytest.mark.parametrize("wanted", ["lip.mp4", "other/clip.mp4", "cli", "", "/clip.mp4", ".", "..", "../clip.mp4"])
def test_what_is_not_there_is_not_found(shared_cache, wanted: str):
    with pytest.raises(EntryNotFoundError, match=shared_cache.encoded):
        shared_cache.cache.find_encoded(wanted)


def test_a_stem_of_several_sources_is_refused_and_lists_them(tmp_path: Path):
    cache = Cache(tmp_path / "cache")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "same.mp4", pictures(4 if folder == "one" else 5))
        encode_video(tmp_path / folder / "same.mp4", cache, EncodeConfig(short_side_px=0))
    with pytest.raises(EntryNotFoundError, match=r"several sources have this name: .*one/same.mp4, .*two/same.mp4"):
        cache.find_encoded("same")


def test_an_empty_cache_is_no_error_until_something_is_wanted(tmp_path: Path):
    cache = Cache(tmp_path / "none")
    assert cache.encoded_names() == cache.primitives_names() == list_cache(cache.root) == find_removable(cache) == []
    assert cache.encoded_entry("a-00000000") is cache.primitives_entry("a-00000000") is None
    assert not cache.root.exists()
    with pytest.raises(EntryNotFoundError, match="it holds nothing"):
        cache.find_encoded("a.mp4")


# Refusing


def test_a_manifest_of_another_schema_is_refused_with_both_versions(filled_cache):
    cache = filled_cache.cache
    rewrite_manifest(filled_cache.video.with_suffix(".json"), schema=7)
    rewrite_manifest(filled_cache.group / "manifest.json", schema=8)
    with pytest.raises(CacheVersionError, match="version 7 found, version 1 expected") as caught:
        cache.encoded_entry(filled_cache.encoded)
    assert "cope cache prune" in caught.value.hint
    with pytest.raises(CacheVersionError, match="version 8 found, version 2 expected"):
        cache.primitives_entry(filled_cache.primitives)
    assert cache.usable_encoded()[0] == []
    assert [type(error) for error in cache.usable_encoded()[1].values()] == [CacheVersionError]
    assert {
        "version 7 found" in line.summary or "version 8 found" in line.summary for line in list_cache(cache.root)
    } == {True}


def test_frames_of_another_schema_are_refused(filled_cache):
    rewrite_manifest(filled_cache.group / "frames" / "32" / "part-0" / "manifest.json", schema=9)
    with pytest.raises(CacheVersionError, match="version 9 found, version 2 expected"):
        verify_primitives(filled_cache.primitives, filled_cache.cache)


def test_entries_of_another_schema_are_made_again(filled_cache):
    for path in (filled_cache.video.with_suffix(".json"), filled_cache.group / "manifest.json"):
        rewrite_manifest(path, schema=7)
    cache = filled_cache.cache
    assert encode_video(filled_cache.source, cache, filled_cache.encode_config).is_new
    assert extract_video(filled_cache.encoded, cache, filled_cache.extract_config).is_new
    assert verify_primitives(filled_cache.primitives, cache).is_compared


def test_a_manifest_of_another_kind_is_refused(filled_cache):
    shutil.copy(filled_cache.video.with_suffix(".json"), filled_cache.group / "manifest.json")
    with pytest.raises(CacheCorruptError, match="kind 'encoded', expected 'primitives'"):
        filled_cache.cache.primitives_entry(filled_cache.primitives)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x"])
def test_a_manifest_that_names_files_outside_its_folder_is_refused(filled_cache, name: str):
    path = filled_cache.group / "manifest.json"
    rewrite_manifest(path, files={name: FileRecord(size_bytes=1, sha256=KEY)})
    with pytest.raises(CacheCorruptError, match="outside its folder"):
        filled_cache.cache.primitives_entry(filled_cache.primitives)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"schema": 1}', '{"schema": 2, "kind": "primitives"}']
)
def test_what_is_no_manifest_is_refused(filled_cache, content: str):
    (filled_cache.group / "manifest.json").write_text(content)
    with pytest.raises(CacheCorruptError, match=r"manifest\.json"):
        filled_cache.cache.primitives_entry(filled_cache.primitives)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_manifest_with_other_fields_is_refused(filled_cache, change: str):
    path = filled_cache.group / "manifest.json"
    data = json.loads(path.read_text())
    if change == "missing":
        del data["source"]
    else:
        data["more"] = 1
    write_json(path, data)
    with pytest.raises(CacheCorruptError):
        filled_cache.cache.primitives_entry(filled_cache.primitives)


def test_an_entry_under_another_key_is_refused(filled_cache):
    cache = filled_cache.cache
    filled_cache.group.rename(filled_cache.group.with_name("clip-00000000.zarr"))
    with pytest.raises(CacheCorruptError, match="does not end with its manifest's fingerprint"):
        cache.primitives_entry("clip-00000000")


def test_a_video_renamed_by_hand_is_refused(filled_cache):
    key = filled_cache.encoded.rpartition("-")[2]
    for suffix in (".mp4", ".json"):
        filled_cache.video.with_suffix(suffix).rename(filled_cache.video.with_name(f"other-{key}{suffix}"))
    with pytest.raises(CacheCorruptError, match=f"of {filled_cache.encoded}.mp4, not of other-{key}.mp4"):
        filled_cache.cache.encoded_entry(f"other-{key}")


# Listing and pruning


def test_the_listing_says_what_each_entry_holds(shared_cache):
    encoded, primitives = list_cache(shared_cache.root)
    assert (encoded.name, encoded.kind) == (shared_cache.encoded, "encoded")
    assert encoded.summary == "96x64, 75 frames, GOP 30"
    assert encoded.size_bytes == shared_cache.video.stat().st_size
    assert (primitives.name, primitives.kind) == (shared_cache.primitives, "primitives")
    assert (primitives.summary, primitives.frames) == ("8 slots, s 10, grid 32", "32 px")
    assert primitives.size_bytes == sum(path.stat().st_size for path in shared_cache.group.rglob("*") if path.is_file())


def test_a_sound_cache_has_nothing_to_prune(shared_cache):
    assert find_removable(shared_cache.cache) == []


def test_prune_finds_each_kind_of_leftover_and_removes_only_that(filled_cache):
    cache = filled_cache.cache
    (cache.tmp / "dead").mkdir(parents=True)
    (cache.tmp / "dead" / "half.mp4").write_bytes(b"half")
    (cache.tmp / "gone.lock").touch()
    (cache.encoded_folder / "bare-00000000.mp4").write_bytes(b"video")
    (cache.encoded_folder / "bad-00000000.json").write_text("{")
    (cache.encoded_folder / "bad-00000000.mp4").write_bytes(b"video")
    (cache.primitives_folder / "bad-00000000.zarr").mkdir()
    found = {item.name: item for item in find_removable(cache)}
    assert set(found) == {"dead", "gone.lock", "bare-00000000", "bad-00000000"}
    assert found["dead"].size_bytes == 4 and "killed" in found["dead"].reason
    assert found["bare-00000000"].reason == "a video without a manifest"
    for item in find_removable(cache):
        item.remove()
    assert find_removable(cache) == []
    assert cache.encoded_names() == [filled_cache.encoded]
    assert verify_encoded(filled_cache.encoded, cache) and verify_primitives(filled_cache.primitives, cache)


def test_an_entry_whose_source_has_changed_is_superseded_with_its_primitives(clip: Path, tmp_path: Path):
    source, cache = tmp_path / "clip.mp4", Cache(tmp_path / "cache")
    names = []
    for content in (clip.read_bytes(), clip.read_bytes() + bytes(8)):
        source.write_bytes(content)
        encoded = encode_video(source, cache, EncodeConfig(fps=4))
        names.append((encoded.name, extract_video(encoded.name, cache, ExtractConfig(grid_px=16)).name))
    other = encode_video(source, cache, EncodeConfig(fps=5)).name  # other settings do not supersede
    (old_encoded, primitives), (new_encoded, same_primitives) = names
    assert old_encoded != new_encoded and primitives == same_primitives  # the encoded bytes are the same
    assert [item.name for item in find_removable(cache)][:1] == [old_encoded]
    assert other not in {item.name for item in find_removable(cache)}


def test_entries_are_removed_by_name(filled_cache):
    cache = filled_cache.cache
    with pytest.raises(EntryNotFoundError, match="no entry nothing"):
        find_named(cache, ["nothing"])
    for item in find_named(cache, [filled_cache.encoded, filled_cache.primitives]):
        assert item.size_bytes > 0
        item.remove()
    assert cache.encoded_names() == cache.primitives_names() == []
    assert [path for path in cache.root.rglob("*") if path.is_file()] == []


# Sources


def test_folders_are_searched_for_videos_but_not_the_cache_and_not_what_is_hidden(filled_cache, clip: Path):
    folder = filled_cache.root.parent
    wanted = [folder / "a.mp4", folder / "deep" / "er" / "B.MKV", folder / "c.webm"]
    others = [folder / ".hidden.mp4", folder / ".cache" / "d.mp4", folder / "notes.txt", folder / "mp4"]
    for path in wanted + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, path)
    assert find_videos([folder], exclude=filled_cache.root) == (sorted(wanted), {})
    assert len(find_videos([folder])[0]) == 4  # without the exclusion, the encoded video would be encoded again


def test_a_file_that_is_named_counts_whatever_its_suffix_and_only_once(tmp_path: Path):
    path = tmp_path / ".recording"
    path.touch()
    assert find_videos([path, tmp_path / "." / ".recording"]) == ([path], {})


def test_each_path_without_a_video_is_an_error_of_its_own(tmp_path: Path, clip: Path):
    empty, missing = tmp_path / "empty", tmp_path / "missing"
    empty.mkdir()
    found, errors = find_videos([empty, clip, missing])
    assert found == [clip]
    assert "no video in this folder" in errors[str(empty)].message
    assert "no such file or folder" in errors[str(missing)].message


def test_a_copy_of_an_encoded_video_is_found_by_its_content(filled_cache, tmp_path):
    copy = tmp_path / "elsewhere" / "renamed.mp4"
    copy.parent.mkdir()
    copy.write_bytes(filled_cache.source.read_bytes())
    assert [entry.name for entry in filled_cache.cache.find_encoded(str(copy))] == [filled_cache.encoded]


def test_prune_offers_an_entry_with_a_missing_shard_or_a_damaged_part(filled_cache):
    assert find_removable(filled_cache.cache) == []
    (part,) = filled_cache.group.glob("frames/*/part-0")
    manifest = part / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-20])
    assert [item.name for item in find_removable(filled_cache.cache)] == [filled_cache.primitives]
    manifest.write_bytes(whole)
    next(filled_cache.group.glob("motion/c*")).unlink()
    assert [item.name for item in find_removable(filled_cache.cache)] == [filled_cache.primitives]


def test_p_slots_read_together_equal_those_read_one_by_one(filled_cache):
    primitives = Primitives(filled_cache.cache.primitives_entry(filled_cache.primitives))
    slots = [int(slot) for slot in np.flatnonzero(~primitives.slots.is_iframe)]
    for wanted in (slots, slots[::2], slots[:1], []):
        motion, residual = primitives.p_slots(wanted)
        assert motion.shape == (len(wanted), 2, 32, 32)
        assert residual.shape == (len(wanted), 32, 32, 3)
        for index, slot in enumerate(wanted):
            np.testing.assert_array_equal(motion[index], primitives.motion(slot))
            np.testing.assert_array_equal(residual[index], primitives.residual(slot))


def test_an_entry_that_another_process_is_replacing_too_is_no_error(tmp_path: Path) -> None:
    """While both replace it, it has no name for a moment."""
    target = tmp_path / "cache" / "entry"
    for text in ("first, in the place of none", "second, in the place of the first"):
        folder = tmp_path / "work" / "entry"
        folder.mkdir(parents=True)
        (folder / "file").write_text(text)
        assert commit_folder(folder, target, replace=True)
        assert (target / "file").read_text() == text
