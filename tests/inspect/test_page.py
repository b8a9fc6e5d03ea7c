"""The page as a file: complete, closed in itself, and safe whatever a video is called."""

from __future__ import annotations

import base64
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.config import DirectConfig, ExtractConfig
from cope_cli.inspect.entry import find_entry
from cope_cli.inspect.page import fill_template, write_page
from cope_cli.inspect.slots import plans_of, slot_pictures, slot_rows
from cope_cli.stages.direct import extract_direct

NASTY = "</script><script>alert(1)</script><!-- & \" ' \u2028 @@DATA@@ @@TITLE@@ \\u003c.mp4"


def data_of(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


@pytest.fixture(scope="module")
def primitives(shared_cache) -> Primitives:
    entry = shared_cache.cache.primitives_entry(shared_cache.primitives)
    assert entry is not None
    return Primitives(entry)


@pytest.fixture(scope="module")
def page(primitives, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "index.html"
    plans = plans_of(primitives)
    write_page(primitives, slot_rows(primitives, range(1, 8), plans), plans, path, start_slot=4, notes=["a note"])
    return path.read_text(encoding="utf-8")


def test_no_value_can_end_the_script_or_bring_a_tag():
    page = fill_template(NASTY, {"name": NASTY})
    assert page.count("</script>") == fill_template("", {}).count("</script>")
    assert data_of(page) == {"name": NASTY}
    (title,) = re.findall("<title>(.*?)</title>", page, re.DOTALL)
    assert html.unescape(title) == f"{NASTY} · cope inspect"
    assert not re.search("[<>]", title)


def test_the_page_names_no_address_and_forbids_every_one(page):
    head, _, rest = page.partition('id="data">')
    without_data = head + rest.partition("</script>")[2].replace("http://www.w3.org/2000/svg", "")  # a name space
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link (?!rel=\"icon\" href=\"data:)|<iframe", without_data)
    assert "default-src 'none'" in page


def test_the_page_holds_the_slots_as_they_are(page, primitives):
    data = data_of(page)
    assert data["start"] == 3
    assert [slot["slot"] for slot in data["slots"]] == list(range(1, 8))
    assert [slot["is_iframe"] for slot in data["slots"]] == primitives.slots.is_iframe[1:].tolist()
    for pictures, slot in zip(slot_pictures(primitives, range(1, 8)), data["slots"], strict=True):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(slot["frame_image"].partition(",")[2]))))
        assert shown.shape == (32, 32, 3)
        assert np.abs(shown.astype(int) - pictures.frame).mean() < 12  # WebP is lossy, most of all at 32 pixels
        assert bool(slot["residual_image"]) == bool(slot["compensated_image"]) == (pictures.motion is not None)
        assert len(slot["vectors"]) == (0 if pictures.motion is None else 2 * 2 * 2)
    first = next(slot_pictures(primitives, range(1, 2)))
    tenths = [round(float(value) * 10) for value in first.motion[:, :16, :16].mean(axis=(1, 2)) / 2]
    assert data["slots"][0]["vectors"][:2] == pytest.approx(tenths, abs=1)
    assert data["before_image"]  # the page begins inside a GOP


def test_the_page_says_what_the_plans_cost(page, primitives):
    rows = [plan["row"] for plan in data_of(page)["plans"]]
    tokens = [plan.num_tokens for plan in plans_of(primitives)]
    assert [row[0] for row in rows] == ["K = 1", "K = 2", "K = 4"]
    assert [int(row[4].replace(",", "")) for row in rows] == tokens
    assert rows[0][5] == f"{100 * tokens[0] / (8 * 210):.1f} %"
    assert rows[0][6] == f"{100 * tokens[0] / 13440:.1f} %"


def test_the_manifest_is_there_without_the_folder_of_the_source(page, shared_cache, primitives):
    manifest = {part["title"]: dict(part["rows"]) for part in data_of(page)["manifest"]}
    assert manifest["Entry"]["fingerprint"] == primitives.entry.manifest.fingerprint
    assert manifest["Source"]["path"] == "clip.mp4"
    assert manifest["Extracted with"]["fusion_frames"] == "10"
    assert manifest["Encoded with"]["gop_frames"] == "30"
    assert str(shared_cache.source.parent) not in page
    files = next(rows for title, rows in manifest.items() if title.startswith("Files"))
    assert set(files) == set(primitives.entry.manifest.files)


@pytest.mark.parametrize(("is_direct", "about"), [(False, "fusion window auto:12 "), (True, " direct from h264")])
def test_the_page_says_how_its_primitives_were_made(filled_cache, tmp_path, is_direct, about):
    if is_direct:
        cache = Cache(tmp_path / "direct")
        extract_direct(filled_cache.source, cache, DirectConfig(extract=ExtractConfig(fusion_frames=12)))
        entry = find_entry(str(filled_cache.source), cache).entry
    else:
        entry = find_entry(str(filled_cache.source), filled_cache.cache, fusion_frames=12, adaptive=True).entry
    primitives, path = Primitives(entry), tmp_path / "index.html"
    plans = plans_of(primitives)
    write_page(primitives, slot_rows(primitives, range(2), plans), plans, path, start_slot=0)
    data = data_of(path.read_text(encoding="utf-8"))
    assert about in data["about"]
    window = None if is_direct else primitives.window_frames(1)
    assert [slot["window_frames"] for slot in data["slots"]] == [None, window]
