"""Draws the pictures of README and docs/inspect.md from a sample clip: `python tools/inspect_images.py`.

Needs the programs chromium and chromedriver for the page. Colours are reduced so that the pictures stay small.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.inspect.config import InspectConfig
from cope_cli.inspect.draw import join_panels
from cope_cli.inspect.figures import figure_panels
from cope_cli.inspect.report import inspect_video
from cope_cli.inspect.slots import slot_pictures

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "sample_videos" / "two_shapes_race.mp4"
SLOT = 3


def reduced(image: Image.Image, width_px: int, colours: int) -> Image.Image:
    """Shrink a picture to a width and a palette: half of it the common colours, half of it the rare ones."""
    height_px = round(image.height * width_px / image.width)
    small = image.convert("RGB").resize((width_px, height_px), Image.Resampling.LANCZOS)
    palette: list[int] = []
    for method in (Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE):
        palette += small.quantize(colours // 2, method).getpalette()[: 3 * (colours // 2)]
    chosen = Image.new("P", (1, 1))
    chosen.putpalette(palette)
    return small.quantize(palette=chosen, dither=Image.Dither.NONE)


def photograph(page: Path, width_px: int, height_px: int, scheme: str) -> Image.Image:
    """Return what a browser shows of a page."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("--headless=new", "--disable-gpu", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        metrics = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": width_px < 700}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(page.as_uri())
        return Image.open(io.BytesIO(browser.get_screenshot_as_png()))
    finally:
        browser.quit()


def main() -> None:
    """Draw all of them."""
    target = ROOT / "docs" / "images"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = InspectConfig(slot=SLOT, has_page=True)
        cache = Cache(folder / "cache")
        record = inspect_video(str(CLIP), cache, folder, config)
        sheet, page = record.files[1], record.files[-1]
        entry = cache.primitives_entry(record.entry)
        assert entry is not None
        primitives = Primitives(entry)
        (pictures,) = slot_pictures(primitives, range(SLOT, SLOT + 1))
        panels = [replace(panel, note="") for panel in figure_panels(primitives, pictures).values()]
        figure = join_panels(panels, columns=3, text_px=36)  # two rows and large titles, to be read on a phone too
        images = {
            "figure-5": reduced(figure, 1000, 128),
            "inspect-gop": reduced(Image.open(sheet), 960, 64),
            "inspect-page": reduced(photograph(page, 1000, 1180, "light"), 600, 64),
            "inspect-phone": reduced(photograph(page, 390, 844, "dark"), 280, 64),
        }
        for title, image in images.items():
            path = target / f"{title}.png"
            image.save(path, optimize=True)
            sys.stdout.write(f"{path.relative_to(ROOT)} {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
