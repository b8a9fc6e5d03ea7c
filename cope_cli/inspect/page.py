"""One HTML file that shows an entry: no network, no framework, pictures and numbers inside it.

The template is `page.html` beside this file. Values go in as one JSON document in which no character can end a script,
and the page's own script writes them as text, never as markup: a video's name may hold anything.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cope_cli import __version__
from cope_cli.cache.manifest import Manifest
from cope_cli.cache.primitives import Primitives
from cope_cli.config import PATCH_PX, ExtractConfig
from cope_cli.files import write_text
from cope_cli.inspect.draw import RESIDUAL_GAIN, arrow_gain, longest_patch_px, residual_levels
from cope_cli.inspect.energy import patch_motion_px
from cope_cli.inspect.slots import SlotPictures, SlotRow, slot_pictures
from cope_cli.model.token_plan import PAPER_TABLE_KEYFRAMES, TokenPlan
from cope_cli.types import OnProgress, UInt8

#: WebP quality of the page's pictures: about 6 kB for one of 224 x 224.
WEBP_QUALITY = 75
_VECTOR_STEPS_PER_PX = 10
#: RGB frames of the paper's baseline, whatever a video's length.
_BASELINE_FRAMES = 64


def write_page(
    primitives: Primitives,
    rows: Sequence[SlotRow],
    plans: Sequence[TokenPlan],
    path: Path,
    *,
    start_slot: int,
    notes: Sequence[str] = (),
    on_progress: OnProgress = lambda done, total: None,
) -> int:
    """Write the page of a run of slots.

    Args:
        primitives: the entry.
        rows: the slots to show, neighbours.
        plans: token plans of the whole video, for each of `PAPER_TABLE_KEYFRAMES`.
        path: the file.
        start_slot: the slot it opens at.
        notes: what is said above the pictures.
        on_progress: called with (slots done, slots in all).

    Returns:
        The file's size in bytes.

    Raises:
        StorageError: it cannot be written.
        CacheCorruptError: a checksum fails.
    """
    document = _document(primitives, plans, notes)
    shown = range(rows[0].slot, rows[-1].slot + 1)
    document |= {"start": start_slot - shown.start, "before_image": "", "slots": []}
    longest_px = 0.0
    for row, pictures in zip(rows, slot_pictures(primitives, shown), strict=True):
        if not document["slots"] and pictures.previous is not None:
            document["before_image"] = _image(pictures.previous)
        document["slots"].append(_slot(row, pictures))
        if pictures.motion is not None:
            longest_px = max(longest_px, longest_patch_px(pictures.motion))
        on_progress(len(document["slots"]), len(rows))
    document["arrow_gain"] = arrow_gain(longest_px, primitives.size, primitives.grid_px)
    write_text(path, fill_template(primitives.name, document))
    return path.stat().st_size


def fill_template(title: str, document: dict[str, Any]) -> str:
    """Return the page with its values in place.

    Args:
        title: of the window.
        document: JSON values for the page's script.
    """
    data = json.dumps(document, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 and the like are escaped
    for letter in "<>&":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    values = {"TITLE": html.escape(f"{title} · cope inspect"), "DATA": data}
    template = files("cope_cli.inspect").joinpath("page.html").read_text(encoding="utf-8")
    return re.sub("@@(TITLE|DATA)@@", lambda found: values[found[1]], template)


def _document(primitives: Primitives, plans: Sequence[TokenPlan], notes: Sequence[str]) -> dict[str, Any]:
    """Return what the page says about the entry as a whole."""
    size, slots, manifest = primitives.size, primitives.slots, primitives.entry.manifest
    num_gops = len(np.unique(slots.gop))
    costs = plans[0].costs
    window = ExtractConfig.from_dict(manifest.config).window
    way = f" · direct from {manifest.info['codec']}" if primitives.entry.is_direct else ""
    gops = f"{num_gops} GOP" if num_gops == 1 else f"{num_gops} GOPs"
    about = (
        f"{size} px · {slots.seconds[-1]:.1f} s · {len(slots)} slots in {gops} · "
        f"fusion window {window} · grid {primitives.grid_px} x {primitives.grid_px}{way}"
    )
    plan_note = (
        f"An RGB slot costs {costs.rgb} tokens, a P slot {costs.delta}; at most 64 GOPs are shown. "
        f"All RGB: every shown slot as RGB. {_BASELINE_FRAMES} RGB: the paper's baseline for a video of any length, "
        f"{_BASELINE_FRAMES * costs.rgb:,} tokens."
    )
    return {
        "name": Path(manifest.source["path"]).name,
        "about": about,
        "notes": list(notes),
        "width_px": size.width,
        "height_px": size.height,
        "num_slots": len(slots),
        "num_gops": num_gops,
        "cells": primitives.grid_px // PATCH_PX,
        "residual_gain": RESIDUAL_GAIN,
        "rgb_tokens": costs.rgb,
        "plan_columns": ["", "RGB slots", "P slots", "GOPs", "tokens", "of all RGB", f"of {_BASELINE_FRAMES} RGB"],
        "plan_note": plan_note,
        "plans": [_plan(k, plan) for k, plan in zip(PAPER_TABLE_KEYFRAMES, plans, strict=True)],
        "manifest": _manifest(primitives.name, manifest),
        "made_by": f"Written by cope {__version__}: cope inspect --html",
    }


def _plan(keyframes: int, plan: TokenPlan) -> dict[str, Any]:
    """Return one row of the table of token plans."""
    all_rgb, baseline = len(plan.slots) * plan.costs.rgb, _BASELINE_FRAMES * plan.costs.rgb
    row = [
        f"K = {keyframes}",
        f"{plan.num_rgb_slots}",
        f"{plan.num_delta_slots}",
        f"{plan.num_gops_used} of {plan.num_gops_total}",
        f"{plan.num_tokens:,}",
        f"{100 * plan.num_tokens / all_rgb:.1f} %",
        f"{100 * plan.num_tokens / baseline:.1f} %",
    ]
    return {"keyframes": keyframes, "row": row}


def _manifest(name: str, manifest: Manifest) -> list[dict[str, Any]]:
    """Return the manifest as titled rows; of the source's path only its last part, as pages are passed on."""
    source = manifest.source | {"path": Path(manifest.source["path"]).name}
    encode = source.pop("config", {})
    head = {
        "entry": name,
        "kind": manifest.kind,
        "schema": manifest.schema,
        "fingerprint": manifest.fingerprint,
        "upstream": manifest.upstream,
    }
    parts = {
        "Entry": head,
        "Source": source,
        "Encoded with": encode,
        "Extracted with": manifest.config,
        "Found": manifest.info,
        "Versions": manifest.versions,
    }
    files = {path: f"{record.size_bytes:,} bytes, sha256 {record.sha256}" for path, record in manifest.files.items()}
    titled = [(title, values) for title, values in (parts | {f"Files ({len(files)})": files}).items() if values]
    return [
        {"title": title, "rows": [[key, _as_text(value)] for key, value in values.items()]} for title, values in titled
    ]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _slot(row: SlotRow, pictures: SlotPictures) -> dict[str, Any]:
    """Return what the page holds of one slot."""
    energy = {"motion_mean_px": 0, "motion_max_px": 0, "moved_share": 0, "residual_mean_levels": 0}
    if row.energy is not None:
        energy = {name: round(value, 3) for name, value in asdict(row.energy).items() if name in energy}
    vectors: list[int] = []
    if pictures.motion is not None:
        patches = patch_motion_px(pictures.motion, PATCH_PX)
        vectors = np.rint(patches * _VECTOR_STEPS_PER_PX).astype(int).ravel().tolist()
    residual, compensated = pictures.residual, pictures.compensated
    return {
        "slot": row.slot,
        "frame": row.frame,
        "seconds": round(row.seconds, 4),
        "gop": row.gop,
        "is_iframe": row.is_iframe,
        "window_frames": row.window_frames,
        "tokens": row.tokens,
        "vectors": vectors,
        "frame_image": _image(pictures.frame),
        "residual_image": "" if residual is None else _image(residual_levels(residual)),
        "compensated_image": "" if compensated is None else _image(compensated),
        **energy,
    }


def _image(pixels: UInt8) -> str:
    """Return a (G, G, 3) picture as a data address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "webp", quality=WEBP_QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
