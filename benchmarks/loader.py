"""How fast training samples are read from a cache, per CPU second.

One process reads whole batches in the order of a training run and collates them as both training stages do. A first
round that is not counted brings the files into memory, so that the figures do not depend on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.shared import measured, new_parser, run_script
from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.cli import show
from cope_cli.data.collate import collate, collate_pairs
from cope_cli.data.conversations import Item, Turn
from cope_cli.data.datasets import FinetuneDataset, PretrainDataset
from cope_cli.data.prompt import PromptBuilder
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import EntryNotFoundError
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.model.token_plan import TokenCosts
from cope_cli.train.loop.order import epoch_steps
from cope_cli.types import OnProgress

_TURN = Turn(question="What happened?", answer="A ball rolls from left to right and comes to rest.")
_CONTEXT_TOKENS = 32_768


@dataclass(frozen=True, kw_only=True)
class LoaderSpeed:
    """What reading one kind of sample costs.

    Attributes:
        samples: "pairs" of pre-training, or "conversations" of finetuning.
        num_samples: samples read.
        num_p_slots: P slots read.
        num_rgb_slots: RGB slots read.
        cpu_seconds: CPU time of the process.
    """

    samples: str
    num_samples: int
    num_p_slots: int
    num_rgb_slots: int
    cpu_seconds: float

    @property
    def samples_per_cpu_second(self) -> float:
        """Samples that one core reads in a second."""
        return self.num_samples / self.cpu_seconds

    @property
    def p_slots_per_cpu_second(self) -> float:
        """P slots that one core reads in a second, with the RGB slots that go with them."""
        return self.num_p_slots / self.cpu_seconds


@dataclass(frozen=True, kw_only=True)
class LoaderSpeeds:
    """Both stages, from one cache.

    Attributes:
        num_entries: entries read.
        grid_px: grid side of the entries.
        size_px: side V of the RGB slots.
        speeds: one per training stage.
        open_cpu_ms: CPU time to open an entry; a sample pays it if the previous sample is of another entry.
    """

    num_entries: int
    grid_px: int
    size_px: int
    speeds: tuple[LoaderSpeed, ...]
    open_cpu_ms: float


def measure_loader(
    cache_root: Path,
    *,
    fusion_frames: int,
    grid_px: int,
    keyframes: int = 4,
    batch_size: int = 8,
    rounds: int = 5,
    on_progress: OnProgress = lambda done, total: None,
) -> LoaderSpeeds:
    """Measure reading from a cache.

    Args:
        cache_root: a cache whose entries have all RGB slots of one size.
        fusion_frames: the fusion window s of the entries to read.
        grid_px: grid size of the primitives.
        keyframes: K of the conversations.
        batch_size: samples per batch.
        rounds: times that all samples are read, after a first time that is not counted.
        on_progress: called with (rounds done, rounds in all).

    Raises:
        EntryNotFoundError: there are no such entries, or RGB slots are missing.
    """
    index = VideoIndex(Cache(cache_root), fusion_frames=fusion_frames, grid_px=grid_px)
    size_px = _common_size_px(cache_root, index.entries, fusion_frames, grid_px)
    pairs = PretrainDataset(cache_root, index.entries, size_px=size_px)
    conversations = _conversations(index, size_px, keyframes)
    works = {"pairs": _pair_reader(pairs, batch_size), "conversations": _conversation_reader(conversations)}
    num_samples = {"pairs": len(pairs), "conversations": len(conversations)}
    speeds: list[LoaderSpeed] = []
    for name, work in works.items():
        seconds = 0.0
        for number in range(rounds + 1):
            start = time.process_time()
            num_p_slots, num_rgb_slots = work()
            seconds += time.process_time() - start if number else 0.0
            on_progress(len(speeds) * (rounds + 1) + number + 1, len(works) * (rounds + 1))
        speeds.append(
            LoaderSpeed(
                samples=name,
                num_samples=num_samples[name] * rounds,
                num_p_slots=num_p_slots * rounds,
                num_rgb_slots=num_rgb_slots * rounds,
                cpu_seconds=seconds,
            )
        )
    return LoaderSpeeds(
        num_entries=len(index.entries),
        grid_px=grid_px,
        size_px=size_px,
        speeds=tuple(speeds),
        open_cpu_ms=_open_cpu_ms(index.entries, size_px, rounds),
    )


def _pair_reader(pairs: PretrainDataset, batch_size: int) -> Callable[[], tuple[int, int]]:
    """Return what reads all pairs in batches and says how many P slots and RGB slots these had."""
    batches = epoch_steps(len(pairs), batch_size, seed=0, epoch=0)

    def read() -> tuple[int, int]:
        num_slots = 0
        for batch in batches:
            num_slots += len(collate_pairs([pairs[sample] for sample in batch]).motion)  # type: ignore[misc]
        return num_slots, 2 * num_slots

    return read


def _conversation_reader(conversations: FinetuneDataset) -> Callable[[], tuple[int, int]]:
    """Return the same for conversations, one at a time."""
    pad_id = conversations.builder.tokenizer.pad_token_id

    def read() -> tuple[int, int]:
        num_slots = num_frames = 0
        for number in range(len(conversations)):
            batch = collate([conversations[number]], pad_id=pad_id)  # type: ignore[list-item]
            num_slots, num_frames = num_slots + len(batch.motion), num_frames + len(batch.rgb)
        return num_slots, num_frames

    return read


def _common_size_px(cache_root: Path, entries: Mapping[str, PrimitivesEntry], fusion_frames: int, grid_px: int) -> int:
    """Return the largest size at which every slot of every entry is there as RGB."""
    hint = f"Run `cope extract --fusion {fusion_frames} --grid {grid_px} --store-frames all` first."
    if not entries:
        raise EntryNotFoundError(
            f"{cache_root}: no primitives with fusion window {fusion_frames} and grid {grid_px}", hint
        )
    sizes: set[int] | None = None
    for entry in entries.values():
        stored = [int(path.name) for path in (entry.folder / "frames").glob("*") if path.name.isdecimal()]
        whole = {size for size in stored if len(Frames(entry, size).slots) == entry.manifest.info["num_slots"]}
        sizes = whole if sizes is None else sizes & whole
    if not sizes:
        raise EntryNotFoundError(f"{cache_root}: its entries do not have all RGB slots at a size in common", hint)
    return max(sizes)


def _conversations(index: VideoIndex, size_px: int, keyframes: int) -> FinetuneDataset:
    """Return one conversation about each video; the costs are those of a 7B, whose prompts are long."""
    _, tokenizer = build_small_videolm()
    builder = PromptBuilder(
        tokenizer=tokenizer, costs=TokenCosts(), context_tokens=_CONTEXT_TOKENS, keyframes_per_gop=keyframes
    )
    items = [
        Item(id=name, video=str(entry.source_path), turns=(_TURN,), where=f"entry {name}")
        for name, entry in sorted(index.entries.items())
    ]
    return FinetuneDataset(items, index, builder, size_px=size_px)


def _open_cpu_ms(entries: Mapping[str, PrimitivesEntry], size_px: int, rounds: int) -> float:
    start = time.process_time()
    for _ in range(rounds):
        for entry in entries.values():
            _open(entry, size_px)
    return (time.process_time() - start) * 1000 / (rounds * len(entries))


def _open(entry: PrimitivesEntry, size_px: int) -> Any:
    """Open an entry as a dataset does, from its manifest on."""
    again = Cache(entry.folder.parents[1]).primitives_entry(entry.name)
    assert again is not None
    return len(Primitives(again).slots), Frames(again, size_px).slots


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print how fast samples are read."""
    description = "Measure how many training samples a CPU core reads per second from a cache."
    parser = new_parser("loader", description, "fusion", "grid", "rounds", "cache", has_videos=False)
    options = parser.parse_args(arguments)
    found = measured(
        "rounds",
        lambda report: measure_loader(
            options.cache,
            fusion_frames=options.fusion,
            grid_px=options.grid,
            rounds=options.rounds,
            on_progress=report,
        ),
    )
    if options.json:
        show.print_json(found)
        return
    show.print_table(
        f"Reading per CPU second, {found.num_entries} entries, grid {found.grid_px}, RGB slots of {found.size_px} px",
        ["samples", "read", "samples/s", "P slots/s", "RGB slots/s"],
        [
            (
                speed.samples,
                str(speed.num_samples),
                f"{speed.samples_per_cpu_second:.1f}",
                f"{speed.p_slots_per_cpu_second:.0f}",
                f"{speed.num_rgb_slots / speed.cpu_seconds:.0f}",
            )
            for speed in found.speeds
        ],
    )
    print(f"opening an entry takes {found.open_cpu_ms:.1f} ms of CPU; 64 entries are kept open")


if __name__ == "__main__":
    run_script(main)
