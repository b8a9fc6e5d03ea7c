"""A contact sheet: clips by row, their slots by column, and beside them what is asked and answered."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from cope_cli.files import write_bytes
from cope_cli.world.records import FPS, GOP_FRAMES, Clip
from cope_cli.world.render import render

#: Clips that a sheet has room for.
NUM_ON_SHEET = 24
_GAP_PX = 6
_TEXT_PX = 470
_LINE_PX = 13
_INK, _MOTION, _STATIC, _PAPER = "#1c1c1c", "#a01818", "#18508c", "#ffffff"


def write_sheet(path: Path, clips: Sequence[Clip], items: Sequence[dict[str, Any]]) -> None:
    """Write a PNG that shows clips, one row to a GOP, at their slots of one second, with their questions.

    Args:
        path: the file to write.
        clips: what to show.
        items: questions; those about other clips are passed over.

    Raises:
        StorageError: it cannot be written.
    """
    size_px = clips[0].size_px
    slots = GOP_FRAMES // FPS
    texts = [_lines(clip, items) for clip in clips]
    heights = [
        max(clip.num_frames // GOP_FRAMES * (size_px + _GAP_PX), (len(lines) + 1) * _LINE_PX)
        for clip, lines in zip(clips, texts, strict=True)
    ]
    sheet = Image.new("RGB", (slots * (size_px + _GAP_PX) + _TEXT_PX, sum(heights)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    top = 0
    for clip, lines, height in zip(clips, texts, heights, strict=True):
        for number, picture in enumerate(islice(render(clip), 0, None, FPS)):
            place = number % slots * (size_px + _GAP_PX), top + number // slots * (size_px + _GAP_PX)
            sheet.paste(Image.fromarray(picture), place)
        for number, (colour, line) in enumerate(lines):
            draw.text((slots * (size_px + _GAP_PX), top + number * _LINE_PX), line, fill=colour, font=font)
        top += height
    data = io.BytesIO()
    sheet.save(data, format="PNG")
    write_bytes(path, data.getvalue())


def _lines(clip: Clip, items: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the lines of text beside a clip, each with its colour."""
    lines = [(_INK, f"{clip.name}, twin {clip.twin} of {clip.group}: {clip.theme}")]
    for item in items:
        if item["video"] == f"clips/{clip.name}.mp4":
            question, reply = (turn["value"] for turn in item["conversations"])
            options = "  ".join(question.split("\n")[2:-1]) if item["options"] else ""
            colour = _MOTION if item["needs"] == "motion" else _STATIC
            lines.append((colour, f"{question.split(chr(10))[1]} {options} -> {reply}"))
    return lines
