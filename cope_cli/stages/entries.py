"""Writing a primitives entry, whatever its slots come from: encoded video or source file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cope_cli.cache.frames import FramesWriter, parts_folder
from cope_cli.cache.manifest import Manifest, record_tree
from cope_cli.cache.primitives import PrimitivesWriter
from cope_cli.cache.store import MANIFEST, Cache, PrimitivesEntry
from cope_cli.cache.temporary import commit_folder
from cope_cli.codec.fusion import FrameSize
from cope_cli.codec.gop import Slot
from cope_cli.codec.versions import library_versions
from cope_cli.config import PRIMITIVES_SCHEMA, ExtractConfig
from cope_cli.errors import CopeError

#: From a workspace to the chunks of each slot, in order, as `compress_slot` gives them.
SlotChunks = Callable[[Path], Iterable[Mapping[str, bytes]]]


@dataclass(frozen=True, kw_only=True)
class EntryPlan:
    """What an entry will be.

    Attributes:
        name: the entry's name.
        fingerprint: its fingerprint.
        upstream: fingerprint of the encoded entry; "" where there is none.
        source: for the manifest.
        settings: for the manifest: what the fingerprint covers.
        info: for the manifest, beside the counts of slots.
        config: grid and fusion window.
        slots: all slots of the video.
        size: picture size.
        fps: frames per second in which windows are counted.
        seconds: each slot's time, if it is not its frame over `fps`.
        rgb_slots: slots whose RGB picture is stored too.
        rgb_size_px: side V of those.
    """

    name: str
    fingerprint: str
    upstream: str
    source: dict[str, Any]
    settings: dict[str, Any]
    info: dict[str, Any]
    config: ExtractConfig
    slots: Sequence[Slot]
    size: FrameSize
    fps: int
    seconds: Sequence[float] | None = None
    rgb_slots: Sequence[int] = ()
    rgb_size_px: int = 0

    @property
    def rgb_frames(self) -> frozenset[int]:
        """Stream indices of the slots whose RGB picture is stored too."""
        return frozenset(self.slots[index].frame for index in self.rgb_slots)

    def manifest(self, folder: Path) -> Manifest:
        """Describe the finished entry in a folder."""
        num_iframes = sum(slot.is_iframe for slot in self.slots)
        counts = {"num_slots": len(self.slots), "num_iframe_slots": num_iframes, "num_gops": num_iframes}
        size = {"width_px": self.size.width, "height_px": self.size.height}
        files = {path: record for path, record in record_tree(folder).items() if not path.startswith("frames/")}
        return Manifest(
            kind="primitives",
            schema=PRIMITIVES_SCHEMA,
            fingerprint=self.fingerprint,
            upstream=self.upstream,
            source=self.source,
            config=self.settings,
            info={**counts, **size, **self.info},
            versions=library_versions(),
            files=files,
        )


def finished_entry(cache: Cache, name: str) -> PrimitivesEntry | None:
    """Return a usable entry; one that is damaged counts as missing and is made again."""
    try:
        entry = cache.primitives_entry(name)
        if entry is not None:
            entry.check()
    except CopeError:
        return None
    return entry


def write_entry(cache: Cache, plan: EntryPlan, chunks: SlotChunks, *, force: bool) -> tuple[PrimitivesEntry, bool]:
    """Write an entry and commit it.

    Returns:
        The entry, and whether it is the one written here: another process may have been faster.
    """
    target = cache.primitives_folder / f"{plan.name}.zarr"
    with cache.workspace() as workspace:
        folder = workspace / "entry"
        writer = PrimitivesWriter(folder, plan.slots, plan.config, plan.size, plan.fps, seconds=plan.seconds)
        frames_writer = None
        if plan.rgb_slots:
            part = parts_folder(folder, plan.rgb_size_px) / "part-0"
            part.parent.mkdir(parents=True)
            frames_writer = FramesWriter(part, plan.rgb_slots, plan.rgb_size_px)
        for slot in chunks(workspace):
            writer.append(slot)
            if frames_writer is not None and "rgb" in slot:
                frames_writer.append(slot["rgb"])
        writer.close()
        if frames_writer is not None:
            frames_writer.close(plan.fingerprint, library_versions())
        manifest = plan.manifest(folder)
        manifest.write(folder / MANIFEST)
        is_ours = commit_folder(folder, target, replace=force or finished_entry(cache, plan.name) is None)
    return PrimitivesEntry(name=plan.name, folder=target, manifest=manifest), is_ours
