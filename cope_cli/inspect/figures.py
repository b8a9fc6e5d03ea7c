"""PNG files: the five pictures of the paper's Figure 5 for one slot, and a contact sheet of its GOP."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from cope_cli.cache.primitives import Primitives
from cope_cli.errors import StorageError, UsageError
from cope_cli.inspect.draw import (
    RESIDUAL_GAIN,
    Panel,
    arrow_gain,
    join_panels,
    longest_patch_px,
    picture,
    residual_levels,
    shown_size,
    with_arrows,
)
from cope_cli.inspect.energy import SlotEnergy, slot_energy
from cope_cli.inspect.slots import SlotPictures, slot_pictures

#: Most slots on a contact sheet; of a longer GOP (`--fusion 1`), those around the slot that was asked for.
SHEET_SLOTS = 32
_SHEET_COLUMNS = 8
_FIGURE_SIDE_PX, _SHEET_SIDE_PX = 288, 128
#: Endings of the five files, in the order of the figure.
FIGURE_5 = ("1-previous", "2-vectors", "3-residual", "4-compensated", "5-result")


def check_slot(primitives: Primitives, slot: int) -> None:
    """Raise UsageError if an entry has no such slot."""
    if not 0 <= slot < len(primitives.slots):
        raise UsageError(f"--slot {slot}: {primitives.name} has slots 0 to {len(primitives.slots) - 1}")


def write_figures(primitives: Primitives, slot: int, folder: Path) -> list[Path]:
    """Write one slot's five pictures, the figure that joins them, and the contact sheet of its GOP.

    An I-frame slot has only its frame.

    Args:
        primitives: the entry.
        slot: which slot.
        folder: where the files go; made if it is missing.

    Returns:
        The files: the figure, the sheet, then the single pictures.

    Raises:
        UsageError: there is no such slot.
        StorageError: a file cannot be written.
        CacheCorruptError: a checksum fails.
    """
    check_slot(primitives, slot)
    (pictures,) = slot_pictures(primitives, range(slot, slot + 1))
    panels = figure_panels(primitives, pictures)
    text_px = max(15, shown_size(primitives.size, _FIGURE_SIDE_PX)[0] // 26)
    title = _slot_title(primitives, slot)
    joined = join_panels(list(panels.values()), columns=len(panels), title=title, text_px=text_px)
    gop = int(primitives.slots.gop[slot])
    files = {f"slot-{slot:04d}.png": joined, f"gop-{gop:04d}.png": contact_sheet(primitives, slot)}
    files |= {f"slot-{slot:04d}-{name}.png": join_panels([panel], columns=1) for name, panel in panels.items()}
    for name, image in files.items():
        _write_png(folder / name, image)
    return [folder / name for name in files]


def figure_panels(primitives: Primitives, pictures: SlotPictures) -> dict[str, Panel]:
    """Return the panels of Figure 5 by the endings of their files."""
    shape = shown_size(primitives.size, _FIGURE_SIDE_PX)
    result = picture(pictures.frame, shape)
    if pictures.previous is None or pictures.motion is None or pictures.residual is None:
        return {FIGURE_5[-1]: Panel(image=result, title="I-frame", note="stored whole")}
    assert pictures.compensated is not None
    energy = slot_energy(pictures.motion, pictures.residual)
    before = picture(pictures.previous, shape)
    gain = arrow_gain(longest_patch_px(pictures.motion), primitives.size, primitives.grid_px)
    arrows = with_arrows(before, pictures.motion, primitives.size, gain)
    residual = picture(residual_levels(pictures.residual), shape)
    compensated = picture(pictures.compensated, shape)
    vectors_note = f"mean {energy.motion_mean_px:.1f}, longest {energy.motion_max_px:.1f} px{_drawn(gain)}"
    residual_note = f"mean {energy.residual_mean_levels:.1f} levels, drawn {RESIDUAL_GAIN} x"
    panels = (
        Panel(image=before, title="Previous frame", note=f"slot {pictures.slot - 1}"),
        Panel(image=arrows, title="Motion vectors", note=vectors_note),
        Panel(image=residual, title="Residual", note=residual_note),
        Panel(image=compensated, title="Motion-compensated", note="previous frame, moved"),
        Panel(image=result, title="Result", note=f"slot {pictures.slot}: moved + residual"),
    )
    return dict(zip(FIGURE_5, panels, strict=True))


def contact_sheet(primitives: Primitives, slot: int) -> Image.Image:
    """Return a sheet of the GOP around a slot: each slot's frame, its vectors over the previous slot, its residual."""
    table = primitives.slots
    members = np.flatnonzero(table.gop == table.gop[slot])
    first = int(np.clip(slot - SHEET_SLOTS // 2, members[0], max(members[0], members[-1] + 1 - SHEET_SLOTS)))
    shown = range(first, min(first + SHEET_SLOTS, int(members[-1]) + 1))
    shape = shown_size(primitives.size, _SHEET_SIDE_PX)
    all_pictures = list(slot_pictures(primitives, shown))
    longest_px = max((longest_patch_px(p.motion) for p in all_pictures if p.motion is not None), default=0.0)
    gain = arrow_gain(longest_px, primitives.size, primitives.grid_px)
    panels = [
        Panel(
            image=_stacked(primitives, pictures, shape, gain),
            title=f"{pictures.slot} {'I' if pictures.motion is None else 'P'}  {table.seconds[pictures.slot]:.2f} s",
            note=_sheet_note(pictures),
        )
        for pictures in all_pictures
    ]
    part = "" if len(shown) == len(members) else f", slots {shown[0]} to {shown[-1]} of {members[0]} to {members[-1]}"
    title = (
        f"{primitives.name}: GOP {table.gop[slot]}{part}. Frame; vectors over the previous slot{_drawn(gain)}; residual"
    )
    return join_panels(panels, columns=_SHEET_COLUMNS, title=title, text_px=13)


def _stacked(primitives: Primitives, pictures: SlotPictures, shape: tuple[int, int], gain: int) -> Image.Image:
    """Return a slot's frame, vectors and residual, one above the other."""
    tiles = [picture(pictures.frame, shape)]
    if pictures.previous is not None and pictures.motion is not None and pictures.residual is not None:
        before = picture(pictures.previous, shape)
        tiles.append(with_arrows(before, pictures.motion, primitives.size, gain))
        tiles.append(picture(residual_levels(pictures.residual), shape))
    gap_px = 3
    column = Image.new("RGB", (shape[0], 3 * shape[1] + 2 * gap_px), (255, 255, 255))
    for index, tile in enumerate(tiles):
        column.paste(tile, (0, index * (shape[1] + gap_px)))
    return column


def _drawn(gain: int) -> str:
    return f", {gain} x as long" if gain > 1 else ""


def _sheet_note(pictures: SlotPictures) -> str:
    if pictures.motion is None or pictures.residual is None:
        return "stored whole"
    energy: SlotEnergy = slot_energy(pictures.motion, pictures.residual)
    return f"{energy.motion_mean_px:.1f} px, {energy.residual_mean_levels:.1f} levels"


def _slot_title(primitives: Primitives, slot: int) -> str:
    table = primitives.slots
    return f"{primitives.name}: slot {slot}, {table.seconds[slot]:.2f} s, GOP {table.gop[slot]}"


def _write_png(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=4)
    temporary = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    except OSError as error:
        raise StorageError.of(path, error) from error
