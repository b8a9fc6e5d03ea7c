"""`cope inspect`: one call from a video to its table, its pictures or its page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.errors import UsageError
from cope_cli.inspect.config import InspectConfig
from cope_cli.inspect.entry import find_entry
from cope_cli.inspect.figures import check_slot, write_figures
from cope_cli.inspect.page import write_page
from cope_cli.inspect.slots import MAX_SLOTS, SlotRow, plans_of, slot_range, slot_rows, typical_slot
from cope_cli.model.token_plan import PAPER_TABLE_KEYFRAMES, TokenPlan
from cope_cli.types import OnItem


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """What the whole video costs at K keyframes per GOP."""

    keyframes_per_gop: int
    num_rgb_slots: int
    num_p_slots: int
    num_gops_used: int
    num_gops_total: int
    num_tokens: int

    @classmethod
    def of(cls, keyframes_per_gop: int, plan: TokenPlan) -> PlanRecord:
        """Count a plan."""
        return cls(
            keyframes_per_gop=keyframes_per_gop,
            num_rgb_slots=plan.num_rgb_slots,
            num_p_slots=plan.num_delta_slots,
            num_gops_used=plan.num_gops_used,
            num_gops_total=plan.num_gops_total,
            num_tokens=plan.num_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class InspectRecord:
    """What was found and written.

    Attributes:
        entry: name of the primitives entry.
        slot: the slot of the pictures, or the one the page opens at.
        rows: the slots looked at.
        plans: token plans of the whole video.
        files: what was written.
        notes: what whoever looks should know.
    """

    entry: str
    slot: int
    rows: list[SlotRow]
    plans: list[PlanRecord]
    files: list[Path]
    notes: list[str]


def inspect_video(
    video: str,
    cache: Cache,
    folder: Path,
    config: InspectConfig,
    *,
    workers: int = 1,
    on_progress: OnItem = lambda what, done, total: None,
) -> InspectRecord:
    """Look at a video's primitives.

    Args:
        video: a video file or the name of a cache entry; stages that are missing for it are run first.
        cache: where primitives are, or go.
        folder: files are written to a folder in it that is named after the entry.
        config: what to look at.
        workers: processes that share the stages of a long video; more than one needs a `__main__` guard in scripts.
        on_progress: called with (what, done, in all).

    Raises:
        UsageError: no such slot, or none between the given times.
        PathNotFoundError: neither a file nor anything in the cache.
        VideoError, StorageError: a stage failed, or a file cannot be written.
        CacheCorruptError, CacheVersionError: the entry cannot be used.
    """
    s, adaptive = config.fusion_frames, config.adaptive
    found = find_entry(video, cache, fusion_frames=s, adaptive=adaptive, workers=workers, on_stage=on_progress)
    primitives = Primitives(found.entry)
    if config.slot is not None:
        check_slot(primitives, config.slot)
    limit = MAX_SLOTS if config.has_page or config.has_pictures else None
    shown, note = slot_range(
        primitives, from_seconds=config.from_seconds, to_seconds=config.to_seconds, max_slots=limit
    )
    if config.has_page and config.slot is not None and config.slot not in shown:
        raise UsageError(
            f"--slot {config.slot}: the page shows slots {shown[0]} to {shown[-1]}", "Move --from or --to."
        )
    about_range = [note] if note and config.has_page else []
    plans = plans_of(primitives)
    rows = slot_rows(primitives, shown, plans, partial(on_progress, "slots"))
    slot = typical_slot(rows) if config.slot is None else config.slot
    target = folder / primitives.name
    files = write_figures(primitives, slot, target) if config.has_pictures else []
    if config.has_page:
        files.append(target / "index.html")
        report = partial(on_progress, "page")
        write_page(primitives, rows, plans, files[-1], start_slot=slot, notes=about_range, on_progress=report)
    return InspectRecord(
        entry=primitives.name,
        slot=slot,
        rows=rows,
        plans=[PlanRecord.of(keyframes, plan) for keyframes, plan in zip(PAPER_TABLE_KEYFRAMES, plans, strict=True)],
        files=files,
        notes=[*found.notes, *about_range],
    )
