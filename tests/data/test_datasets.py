from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_cache import GRID_PX, SAMPLES, SIZE_PX, add_to_cache

from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.data.collate import collate, collate_pairs, split_bad
from cope_cli.data.conversations import Item
from cope_cli.data.datasets import BadSample, FinetuneDataset, PretrainDataset
from cope_cli.data.prompt import PromptBuilder
from cope_cli.data.samples import PairSample, Sample
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import DataError
from cope_cli.model.token_plan import TokenKind


def _index(cache: Cache) -> VideoIndex:
    return VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX)


def _finetune(cache: Cache, items: list[Item], builder: PromptBuilder, **options: Any) -> FinetuneDataset:
    return FinetuneDataset(items, _index(cache), builder, size_px=SIZE_PX, **options)


def _pretrain(cache: Cache, **options: Any) -> PretrainDataset:
    return PretrainDataset(cache.root, _index(cache).entries, size_px=SIZE_PX, **options)


@pytest.fixture
def damaged(cache_of_two: Cache, tmp_path: Path) -> tuple[Cache, str]:
    """A copy in which one byte of `camera_pan`'s residuals is flipped."""
    cache = Cache(tmp_path / "cache")
    shutil.copytree(cache_of_two.root, cache.root)
    name = _index(cache).find("camera_pan.mp4").name
    shard = cache.primitives_folder / f"{name}.zarr" / "residual" / "c.0.0.0.0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    return cache, name


def test_a_sample_holds_the_planned_slots_in_time_order(
    cache_of_two: Cache, items: list[Item], builder: PromptBuilder
) -> None:
    dataset = _finetune(cache_of_two, items, replace(builder, keyframes_per_gop=2))
    sample = dataset[0]
    assert isinstance(sample, Sample)
    entry = _index(cache_of_two).find("camera_pan.mp4")
    primitives, frames = Primitives(entry), Frames(entry, SIZE_PX)
    # 10 s at GOP 120: GOPs of 4, 4 and 2 slots. K = 2 shows the first and the middle one of each as RGB.
    rgb, delta = [0, 2, 4, 6, 8, 9], [1, 3, 5, 7]
    np.testing.assert_array_equal(sample.visuals.rgb, [frames.rgb(slot) for slot in rgb])
    np.testing.assert_array_equal(sample.visuals.motion, [primitives.motion(slot) for slot in delta])
    np.testing.assert_array_equal(sample.visuals.residual, [primitives.residual(slot) for slot in delta])
    assert sample.visuals.frame_size_px.tolist() == [[primitives.size.width, primitives.size.height]] * 4
    assert sample.prompt.kinds.count(TokenKind.RGB) == len(rgb) * 4
    assert dataset.rgb_slots(entry.name) == tuple(rgb)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_its_samples_padded(
    cache_of_two: Cache, items: list[Item], builder: PromptBuilder, side: Any
) -> None:
    dataset = _finetune(cache_of_two, items, builder)
    samples = [dataset[0], dataset[1]]
    good, bad = split_bad(samples)
    assert not bad
    batch = collate(good, pad_id=256, padding_side=side)
    length = max(len(sample.prompt) for sample in good)
    assert batch.input_ids.shape == (2, length)
    for row, sample in enumerate(good):
        mask = batch.attention_mask[row].bool()
        num_pad = length - len(sample.prompt)
        assert mask.tolist() == ([False] * num_pad + [True] * len(sample.prompt))[:: 1 if side == "left" else -1]
        for tensor, expected, fill in (
            (batch.input_ids, sample.prompt.ids, 256),
            (batch.token_kind, sample.prompt.kinds, 0),
            (batch.labels, sample.prompt.labels, -100),
        ):
            assert tensor is not None
            assert tensor[row][mask].tolist() == list(expected)
            assert set(tensor[row][~mask].tolist()) <= {fill}
    for name in ("rgb", "motion", "residual", "frame_size_px"):
        expected = np.concatenate([getattr(sample.visuals, name) for sample in good])
        np.testing.assert_array_equal(getattr(batch, name).numpy(), expected)
    assert collate(good, pad_id=256, with_labels=False).labels is None


def test_a_plan_without_p_slots_or_of_one_kind_still_batches(
    cache_of_two: Cache, items: list[Item], builder: PromptBuilder
) -> None:
    good, _ = split_bad([_finetune(cache_of_two, items, replace(builder, include_delta=False))[0]])
    batch = collate(good, pad_id=256)
    assert batch.motion.shape == (0, 2, GRID_PX, GRID_PX)
    assert batch.residual.shape == (0, GRID_PX, GRID_PX, 3)
    assert batch.frame_size_px.shape == (0, 2)


def test_pairs_never_cross_an_iframe_and_leave_none_out(cache_of_two: Cache) -> None:
    dataset = _pretrain(cache_of_two)
    expected: list[tuple[str, int]] = []
    for name, entry in sorted(_index(cache_of_two).entries.items()):
        gops = Primitives(entry).slots.gop
        expected += [(name, slot) for slot in range(1, len(gops)) if gops[slot] == gops[slot - 1]]
    # camera_pan: 10 slots in 3 GOPs; still_scene: 8 slots in 2 GOPs.
    assert len(dataset) == len(expected) == (10 - 3) + (8 - 2)
    for index, (name, slot) in enumerate(expected):
        entry = _index(cache_of_two).entries[name]
        primitives, frames = Primitives(entry), Frames(entry, SIZE_PX)
        pair = dataset[index]
        assert isinstance(pair, PairSample)
        np.testing.assert_array_equal(pair.rgb, [frames.rgb(slot - 1), frames.rgb(slot)])
        np.testing.assert_array_equal(pair.motion, primitives.motion(slot))
        np.testing.assert_array_equal(pair.residual, primitives.residual(slot))
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    assert dataset.rgb_slots(sorted(_index(cache_of_two).entries)[0]) == tuple(range(10))


def test_pairs_collate_in_order(cache_of_two: Cache) -> None:
    pairs, _ = split_bad([_pretrain(cache_of_two)[i] for i in (0, 9)])
    batch = collate_pairs(pairs).to("cpu")
    assert batch.rgb.shape == (2, 2, SIZE_PX, SIZE_PX, 3)
    np.testing.assert_array_equal(batch.residual[1].numpy(), pairs[1].residual)
    assert batch.frame_size_px.dtype == torch.int32


def _worker_batches(dataset: Any, start: str | None) -> list[Any]:
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=1, num_workers=1 if start else 0, multiprocessing_context=start, collate_fn=list
    )
    return [sample for batch in loader for sample in batch]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_read_the_same_samples(cache_of_two: Cache, start: str) -> None:
    dataset = _pretrain(cache_of_two)
    here = _worker_batches(dataset, None)  # the parent's readers are open when the workers start
    there = _worker_batches(dataset, start)
    assert len(here) == len(there) == len(dataset)
    for mine, theirs in zip(here, there, strict=True):
        for name in ("rgb", "motion", "residual", "frame_size_px"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))


def test_samples_depend_on_nothing_but_their_index(
    cache_of_two: Cache, items: list[Item], builder: PromptBuilder
) -> None:
    first = _finetune(cache_of_two, items, builder)
    np.random.seed(3)  # noqa: NPY002  the global state must not matter
    second = pickle.loads(pickle.dumps(first))
    for index in (1, 0, 1):
        a, b = first[index], second[index]
        assert isinstance(a, Sample)
        assert isinstance(b, Sample)
        assert a.prompt == b.prompt
        np.testing.assert_array_equal(a.visuals.residual, b.visuals.residual)


def test_frames_added_after_the_slot_table_was_read_are_seen(
    tmp_path: Path, items: list[Item], builder: PromptBuilder
) -> None:
    from cope_cli.stages.frames import ensure_frames

    cache = Cache(tmp_path / "cache")
    name = add_to_cache(cache, SAMPLES / "still_scene.mp4", all_frames=False)
    dataset = _finetune(cache, items[1:], replace(builder, keyframes_per_gop=2))
    wanted = dataset.rgb_slots(name)
    added = ensure_frames(cache, _index(cache).entries[name], SIZE_PX, wanted)
    assert added == 2
    assert isinstance(dataset[0], Sample)


def test_a_frame_that_was_never_stored_is_named(tmp_path: Path, items: list[Item], builder: PromptBuilder) -> None:
    cache = Cache(tmp_path / "cache")
    name = add_to_cache(cache, SAMPLES / "still_scene.mp4", all_frames=False)
    with pytest.raises(DataError, match=rf"item 1 \(id '1'\), entry {name}: .*no RGB picture of slot 2"):
        _finetune(cache, items[1:], replace(builder, keyframes_per_gop=2))[0]


def test_an_item_without_an_entry_stops_or_is_counted(
    cache_of_two: Cache, items: list[Item], builder: PromptBuilder
) -> None:
    items = [*items, replace(items[0], video="absent.mp4", where="qa.json: item 2 (id 'x')")]
    with pytest.raises(DataError, match=r"item 2 \(id 'x'\): .*no primitives of absent\.mp4"):
        _finetune(cache_of_two, items, builder)
    dataset = _finetune(cache_of_two, items, builder, skip_bad=True)
    assert len(dataset) == 2
    assert [bad.where for bad in dataset.bad] == ["qa.json: item 2 (id 'x')"]
    with pytest.raises(DataError, match="none of the 1 items"):
        _finetune(cache_of_two, items[2:], builder, skip_bad=True)


def _finetune_of(cache: Cache, items: list[Item], builder: PromptBuilder, skip_bad: bool) -> Any:
    return _finetune(cache, items, builder, skip_bad=skip_bad)


def _pretrain_of(cache: Cache, items: list[Item], builder: PromptBuilder, skip_bad: bool) -> Any:
    return _pretrain(cache, skip_bad=skip_bad)


@pytest.mark.parametrize("make", [_finetune_of, _pretrain_of])
def test_a_damaged_sample_stops_or_comes_back_by_name(
    damaged: tuple[Cache, str], items: list[Item], builder: PromptBuilder, make: Callable[..., Any]
) -> None:
    cache, name = damaged
    with pytest.raises(DataError, match=rf"entry {name}: .*array residual") as caught:
        make(cache, items, builder, False)[0]
    assert "item 0" in caught.value.message or "pair 0" in caught.value.message
    dataset = make(cache, items, builder, True)
    good, bad = split_bad([dataset[index] for index in range(len(dataset))])
    assert len(good) + len(bad) == len(dataset)
    assert bad
    assert all(isinstance(sample, BadSample) and name in sample.where for sample in bad)
    assert len({sample.where for sample in bad}) == len(bad)
    assert good, "the other video's samples are untouched"


def test_an_item_too_long_for_the_context_is_named_not_cut(
    cache_of_two: Cache, items: list[Item], builder: PromptBuilder
) -> None:
    dataset = _finetune(cache_of_two, items, replace(builder, context_tokens=100))
    with pytest.raises(DataError, match=r"item 1 \(id '1'\), entry .*not even one GOP fits"):
        dataset[1]


def test_a_cache_without_p_slots_has_no_pairs(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    add_to_cache(cache, SAMPLES / "still_scene.mp4", gop=30)
    with pytest.raises(DataError, match="no P-frame slot"):
        _pretrain(cache)
