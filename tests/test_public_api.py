"""`import cope_cli as cope`: what it offers, what it costs, and what it says where torch is missing."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import cope_cli as cope

if TYPE_CHECKING:
    from conftest import FilledCache

NO_TORCH = "import sys; sys.modules['torch'] = None; import cope_cli as cope; "


def printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def dataset(filled: FilledCache, *returns: str) -> cope.SlotDataset:
    return cope.SlotDataset(filled.root, fusion=10, grid=32, returns=returns or ("motion", "residual"))


def test_importing_imports_nothing_else() -> None:
    heavy = {"numpy", "torch", "av", "zarr", "typer", "rich", "transformers", "numba"}
    assert printed(f"import sys, cope_cli; print({heavy} & set(sys.modules))") == "set()"


def test_every_public_name_is_there_and_documented() -> None:
    assert set(cope.__all__) <= set(dir(cope))
    for name in cope.__all__:
        assert getattr(cope, name).__doc__, name
    assert (Path(cope.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        cope.Nothing  # noqa: B018


def test_without_torch_videos_are_read(shared_cache: FilledCache) -> None:
    code = f"{NO_TORCH} video = cope.Cache({str(shared_cache.root)!r})['clip']; print(video[1].motion.shape)"
    assert printed(code) == "(2, 32, 32)"


@pytest.mark.parametrize("name", ["SlotDataset", "CopeVideoLM"])
def test_without_torch_the_error_says_what_to_install(name: str) -> None:
    code = f"{NO_TORCH}\ntry:\n    cope.{name}\nexcept ModuleNotFoundError as error:\n    print(error)"
    assert printed(code) == f"cope_cli.{name} needs torch, which is not installed: pip install 'cope-cli[models]'"


def test_encode_and_extract_return_records(clip: Path, tmp_path: Path) -> None:
    config = cope.EncodeConfig(gop_frames=30)
    (encoded,) = cope.encode(clip, config, cache=tmp_path)
    assert (encoded.is_new, encoded.num_frames) == (True, 75)
    (extracted,) = cope.extract(cache=tmp_path, config=cope.ExtractConfig(fusion_frames=10, grid_px=32))
    assert (extracted.encoded, extracted.num_slots) == (encoded.name, 8)
    assert cope.Cache(tmp_path)["clip"].name == extracted.name
    assert not cope.encode([str(clip)], config, cache=tmp_path)[0].is_new
    assert not cope.extract(clip, cope.ExtractConfig(fusion_frames=10, grid_px=32), cache=tmp_path)[0].is_new


def test_a_failed_video_is_named_after_all_others_are_done(clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(cope.CopeError, match=r"1 of 2 videos failed: .*broken\.mp4"):
        cope.encode([broken, clip], cache=tmp_path / "cache")
    (record,) = cope.encode(clip, cache=tmp_path / "cache")
    assert not record.is_new


def test_a_dataset_holds_every_slot_in_order(shared_cache: FilledCache) -> None:
    video = cope.Cache(shared_cache.root)["clip"]
    slots = dataset(shared_cache, "motion", "residual", "frame", "seconds", "is_iframe")
    assert len(slots) == len(video) == 8
    for index, slot in enumerate(video):
        item = slots[index]
        assert np.array_equal(item["motion"], video.motion[index])
        assert np.array_equal(item["residual"], video.residual[index])
        assert np.array_equal(item["frame"], video.reconstruct(index))
        assert (item["seconds"], item["is_iframe"]) == (slot.seconds, slot.is_iframe)
        assert (item["video"], item["slot"]) == (0, index)
    assert slots[-1]["slot"] == 7
    assert slots.videos == [video.name]
    assert repr(slots).endswith("fusion 10, grid 32, returns motion, residual, frame, seconds, is_iframe)")
    with pytest.raises(IndexError, match="slot 8: expected -8 to 7"):
        slots[8]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_workers_give_the_same_batches(shared_cache: FilledCache, method: str) -> None:
    slots = dataset(shared_cache)
    slots[0]  # files are open when the workers start
    context = multiprocessing.get_context(method)
    shared = list(DataLoader(slots, batch_size=3, num_workers=2, multiprocessing_context=context))
    alone = list(DataLoader(slots, batch_size=3))
    assert [len(batch["slot"]) for batch in shared] == [3, 3, 2]
    for here, there in zip(alone, shared, strict=True):
        assert here.keys() == there.keys() == {"motion", "residual", "video", "slot"}
        assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_dataset_refuses_what_it_does_not_have(shared_cache: FilledCache) -> None:
    with pytest.raises(ValueError, match="returns: unknown: flow; expected some of motion, residual, frame, seconds"):
        dataset(shared_cache, "motion", "flow")
    with pytest.raises(KeyError, match="no re-encoded video with fusion 30 and grid 224"):
        cope.SlotDataset(shared_cache.root)
    with pytest.raises(KeyError, match="no direct video"):
        cope.SlotDataset(shared_cache.root, fusion=10, grid=32, direct=True)
