"""Keyframes per GOP that are drawn per sample, and samples that the context is too short for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from small_cache import GRID_PX, SAMPLES, SIZE_PX, add_to_cache

from cope_cli.cache.store import Cache
from cope_cli.data.conversations import Item
from cope_cli.data.datasets import BadSample, FinetuneDataset
from cope_cli.data.keyframes import KeyframeMix
from cope_cli.data.prompt import PromptBuilder
from cope_cli.data.samples import Sample, Shortened
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import DataError, UsageError

MIX = KeyframeMix.parse("1:2,2:1,4:1")


def _index(cache: Cache) -> VideoIndex:
    return VideoIndex(cache, fusion_frames=30, grid_px=GRID_PX)


def _sample(dataset: FinetuneDataset, index: int) -> Sample:
    sample = dataset[index]
    assert isinstance(sample, Sample)
    return sample


@pytest.mark.parametrize(("text", "canonical"), [(4, "4"), ("4", "4"), ("2, 1:3", "1:3,2:1"), ("4:1,1:2", "1:2,4:1")])
def test_a_mix_is_written_in_one_way(text: int | str, canonical: str) -> None:
    mix = KeyframeMix.parse(text)
    assert str(mix) == canonical
    assert KeyframeMix.parse(canonical) == mix


@pytest.mark.parametrize("text", [0, "", "x", "1:0", "0:1", "1:2,1:3", "1:2,", "-1", "1.5", "1:2:3"])
def test_what_is_no_mix_names_the_flag(text: int | str) -> None:
    with pytest.raises(UsageError, match=f"--keyframes {text}"):
        KeyframeMix.parse(text)


def test_draws_follow_the_weights_and_differ_between_seeds_epochs_and_samples() -> None:
    draws = [MIX.draw(seed=0, epoch=0, sample=str(number)) for number in range(4000)]
    counts = Counter(draws)
    for keyframes, expected in ((1, 2000), (2, 1000), (4, 1000)):
        assert abs(counts[keyframes] - expected) < 130  # over four standard deviations
        assert MIX.share(keyframes) == expected / 4000
    assert draws == [MIX.draw(seed=0, epoch=0, sample=str(number)) for number in range(4000)]
    for other in ({"seed": 1, "epoch": 0}, {"seed": 0, "epoch": 1}):
        agree = sum(MIX.draw(**other, sample=str(n)) == draws[n] for n in range(4000))
        assert abs(agree - 4000 * 6 / 16) < 130  # as often as by chance: 1/4 + 1/16 + 1/16
    assert {KeyframeMix.parse(3).draw(seed=s, epoch=s, sample="x") for s in range(20)} == {3}


def test_a_sample_shows_what_was_drawn_for_its_epoch_and_every_slot_it_may_show_is_asked_for(
    cache_of_two: Cache, items: list[Item], builder: PromptBuilder
) -> None:
    dataset = FinetuneDataset(items, _index(cache_of_two), builder, size_px=SIZE_PX, keyframes=MIX, seed=3)
    names = [_index(cache_of_two).find(item.video).name for item in items]
    shown: list[list[int]] = []
    for epoch in range(8):
        dataset.set_epoch(epoch)
        row = []
        for index, item in enumerate(items):
            keyframes = MIX.draw(seed=3, epoch=epoch, sample=f"{index}:{item.id}")
            assert dataset.drawn_keyframes(index) == keyframes
            plan = _sample(dataset, index).prompt.plan
            # GOPs of 4 slots, and a last one of 2 for `camera_pan`.
            assert plan.num_rgb_slots == (2 * keyframes + min(keyframes, 2) if index == 0 else 2 * keyframes)
            assert set(plan.rgb_slots) <= set(dataset.rgb_slots(names[index]))
            row.append(keyframes)
        shown.append(row)
    assert {keyframes for row in shown for keyframes in row} == {1, 2, 4}
    assert any(first != second for first, second in shown)
    dataset.set_epoch(2)
    assert [dataset.drawn_keyframes(index) for index in (0, 1)] == shown[2]  # whatever was read before


def _context_for(builder: PromptBuilder, dataset: FinetuneDataset, num_gops: int) -> int:
    """A context that holds the text of item 0 and so many GOPs of one RGB slot."""
    few = FinetuneDataset.__new__(FinetuneDataset)
    few.__dict__.update(dataset.__dict__, builder=replace(builder, max_gops=num_gops))
    return len(_sample(few, 0).prompt)


def test_what_is_shown_of_a_shortened_sample_was_asked_for(
    tmp_path: Path, items: list[Item], builder: PromptBuilder
) -> None:
    cache = Cache(tmp_path / "cache")
    name = add_to_cache(cache, SAMPLES / "camera_pan.mp4", gop=30)  # ten GOPs of one slot
    builder = replace(builder, max_gops=5)
    whole = FinetuneDataset(items[:1], _index(cache), builder, size_px=SIZE_PX)
    assert _sample(whole, 0).shortened is None  # five of ten GOPs were asked for
    assert whole.rgb_slots(name) == (0, 2, 4, 6, 8)
    context = _context_for(builder, whole, 3)
    short = FinetuneDataset(items[:1], _index(cache), replace(builder, context_tokens=context), size_px=SIZE_PX)
    sample = _sample(short, 0)
    assert sample.prompt.plan.rgb_slots == (0, 3, 6)
    assert sample.shortened == Shortened(where=f"{items[0].where}, entry {name}", num_gops=3, num_gops_wanted=5)
    assert short.rgb_slots(name) == (0, 2, 3, 4, 6, 8)


def test_a_sample_of_which_no_gop_fits_is_refused_by_name(
    cache_of_two: Cache, items: list[Item], builder: PromptBuilder
) -> None:
    builder = replace(builder, context_tokens=100)
    dataset = FinetuneDataset(items, _index(cache_of_two), builder, size_px=SIZE_PX)
    with pytest.raises(DataError, match=r"item 0 \(id '0'\).*not even one GOP fits"):
        dataset[0]
    dataset = FinetuneDataset(items, _index(cache_of_two), builder, size_px=SIZE_PX, skip_bad=True)
    sample = dataset[0]
    assert isinstance(sample, BadSample)
    assert sample.is_too_long
