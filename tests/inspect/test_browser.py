"""The page in a real browser: keys, slider, toggles, themes, a phone's width, and a silent console."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.inspect.entry import find_entry
from cope_cli.inspect.page import fill_template, write_page
from cope_cli.inspect.slots import plans_of, slot_rows

DESKTOP, PHONE = (1280, 900, False), (360, 740, True)
#: A file may have any name without a slash.
NASTY_NAME = "<img src=x onerror=document.title='broken'>&\"'.mp4"


@pytest.fixture(scope="module")
def page(shared_cache, tmp_path_factory) -> Path:
    """The clip's page, of a copy of the clip with a nasty name; opens at slot 4."""
    folder = tmp_path_factory.mktemp("browser")
    video = folder / NASTY_NAME
    shutil.copy(shared_cache.source, video)
    primitives = Primitives(find_entry(str(video), Cache(folder / "cache"), fusion_frames=15).entry)
    plans = plans_of(primitives)
    path = folder / "index.html"
    write_page(primitives, slot_rows(primitives, range(len(primitives.slots)), plans), plans, path, start_slot=4)
    return path


class Window:
    """What a person does with the page, and sees."""

    def __init__(self, chromium: Any) -> None:
        self.chromium = chromium

    def open(self, path: Path, *, size: tuple[int, int, bool] = DESKTOP, scheme: str = "light") -> None:
        width, height, is_mobile = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_mobile}
        self.chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.chromium.get_log("browser")  # what an earlier page said
        self.chromium.get(path.as_uri())

    def js(self, code: str, *args: Any) -> Any:
        return self.chromium.execute_script(code, *args)

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.chromium, duration=0).send_keys(key).perform()

    def click(self, selector: str) -> None:
        self.chromium.find_element("css selector", selector).click()

    @property
    def slot(self) -> int:
        return int(self.js("return document.getElementById('slider').value"))

    @property
    def summary(self) -> str:
        return str(self.js("return document.getElementById('summary').textContent"))

    @property
    def panels(self) -> list[str]:
        """Ids of the pictures that are seen."""
        seen = "return [...document.querySelectorAll('figure')].filter(f => f.offsetHeight > 0).map(f => f.id)"
        return [name.removeprefix("panel-") for name in self.js(seen)]

    def is_pressed(self, name: str) -> bool:
        return str(self.js(f"return document.getElementById('{name}').getAttribute('aria-pressed')")) == "true"

    @property
    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.chromium.get_log("browser")]


@pytest.fixture
def window(chromium, page) -> Window:
    window = Window(chromium)
    window.open(page)
    return window


@pytest.fixture(scope="module")
def keys() -> Any:
    return pytest.importorskip("selenium.webdriver.common.keys").Keys


def test_the_page_opens_at_its_slot_and_says_nothing_to_the_console(window):
    assert window.slot == 4
    assert window.summary.startswith(
        "Slot 4 of 0 to 4, 2.00 s, frame 60, GOP 0: P-frame, 10 tokens (Delta) at K = 1; motion"
    )
    assert window.panels == ["vectors", "residual", "compensated", "result"]
    assert window.js("return document.querySelectorAll('img').length") == 4
    assert window.js("return [...document.images].every(image => image.complete && image.naturalWidth === 224)")
    assert window.complaints == []


def test_a_videos_name_is_text(window, page):
    assert window.js("return document.getElementById('name').textContent") == NASTY_NAME
    assert window.chromium.title != "broken"


def test_a_name_that_closes_the_script_is_text(chromium, page, tmp_path):
    name = "</script><script>document.title = 'broken'</script>@@DATA@@"
    document = page.read_text(encoding="utf-8")
    start, end = document.index('id="data">') + len('id="data">'), document.index("</script>")
    data = json.loads(document[start:end])
    (tmp_path / "nasty.html").write_text(fill_template(name, data | {"name": name}), encoding="utf-8")
    window = Window(chromium)
    window.open(tmp_path / "nasty.html")
    assert window.js("return document.getElementById('name').textContent") == name
    assert chromium.title.startswith(name)
    assert window.complaints == []


def test_keys_move_through_the_slots_and_stop_at_the_ends(window, keys):
    window.press(keys.HOME)
    assert window.slot == 0
    window.press(keys.ARROW_LEFT)
    assert window.slot == 0
    window.press(keys.ARROW_RIGHT, keys.ARROW_RIGHT)
    assert window.slot == 2
    window.press(keys.ARROW_LEFT)
    assert window.slot == 1
    window.press(keys.END)
    assert window.slot == 4
    window.press(keys.ARROW_RIGHT)
    assert window.slot == 4
    window.press(keys.PAGE_UP)
    assert window.slot == 0
    assert window.complaints == []


def test_keys_count_once_where_the_slider_has_the_focus(window, keys):
    window.js("document.getElementById('slider').focus()")
    window.press(keys.HOME, keys.ARROW_RIGHT)
    assert window.slot == 1
    assert window.summary.startswith("Slot 1 ")


def test_the_slider_chooses_the_slot(window):
    slider = "const s = document.getElementById('slider'); s.value = arguments[0];"
    window.js(slider + "s.dispatchEvent(new Event('input', {bubbles: true}))", 2)
    assert window.summary.startswith("Slot 2 ")
    from selenium.webdriver.common.action_chains import ActionChains

    thumb = window.chromium.find_element("css selector", "#slider")
    ActionChains(window.chromium, duration=0).move_to_element_with_offset(
        thumb, -thumb.size["width"] // 2 + 4, 0
    ).click().perform()
    assert window.slot == 0
    assert window.summary.startswith("Slot 0 ")


def test_a_click_on_the_timeline_goes_there(window):
    from selenium.webdriver.common.action_chains import ActionChains

    rows = window.chromium.find_element("css selector", "#rows")
    fifth = rows.size["width"] / 5
    ActionChains(window.chromium, duration=0).move_to_element_with_offset(rows, int(-1 * fifth), 0).click().perform()
    assert window.slot == 1


@pytest.mark.parametrize("by", ["key", "click", "space"])
def test_toggles_hide_and_show_their_picture(window, keys, by):
    names = ["vectors", "residual", "compensated", "result"]
    for number, name in enumerate(names, start=1):
        for is_shown in (False, True):
            if by == "key":
                window.press(str(number))
            elif by == "click":
                window.click(f"#toggle-{name}")
            else:
                window.js(f"document.getElementById('toggle-{name}').focus()")
                window.press(keys.SPACE)
            assert (name in window.panels) == is_shown == window.is_pressed(f"toggle-{name}")
            assert len(window.panels) == 3 + is_shown
    assert window.complaints == []


def test_vectors_are_drawn_over_the_previous_slot(window, keys):
    count = """
        const canvas = document.querySelector('canvas');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        let yellow = 0;
        for (let i = 0; i < pixels.length; i += 4)
            yellow += pixels[i] > 200 && pixels[i + 2] < 60 && pixels[i + 3] > 200;
        return yellow / (canvas.width * canvas.height)"""
    share = window.js(count)
    assert share > 0.01  # the clip pans: there are arrows all over
    frame = "return document.querySelector('#panel-{} img').src"
    vectors_over = window.js(frame.format("vectors"))
    window.press(keys.ARROW_LEFT)
    assert window.js(frame.format("result")) == vectors_over


def test_an_iframe_takes_the_room_of_the_four_pictures(window, keys):
    width = "return document.querySelector('#panel-result .stage').offsetWidth"
    narrow = window.js(width)
    window.press(keys.HOME)
    assert window.panels == ["result"]
    assert window.js("return document.querySelector('#panel-result b').textContent") == "I-frame"
    assert window.js(width) > 1.9 * narrow
    assert "I-frame, 210 tokens (RGB)" in window.summary


def test_the_time_axis_is_in_seconds_and_in_step_with_the_slots(window):
    ticks = "return [...document.querySelectorAll('#axis span')].map(t => [t.textContent, t.style.left])"
    assert window.js(ticks) == [["0 s", "0%"], ["0.5 s", "20%"], ["1 s", "40%"], ["1.5 s", "60%"], ["2 s", "80%"]]


def test_an_adaptive_slot_says_how_long_its_window_is(chromium, filled_cache, tmp_path):
    found = find_entry(str(filled_cache.source), filled_cache.cache, fusion_frames=12, adaptive=True)
    primitives, path = Primitives(found.entry), tmp_path / "index.html"
    plans = plans_of(primitives)
    write_page(primitives, slot_rows(primitives, range(2), plans), plans, path, start_slot=1)
    window = Window(chromium)
    window.open(path)
    assert f": P-frame of a window of {primitives.window_frames(1)} frames, 10 tokens" in window.summary
    window.click("#row-kind rect")
    assert "I-frame, 210 tokens" in window.summary
    assert window.complaints == []


def test_keyframes_change_the_tokens_of_the_slots(window, keys):
    window.press(keys.END, keys.ARROW_LEFT)
    heights = "return [...document.querySelectorAll('#row-tokens rect')].map(r => r.height.baseVal.value > 50)"
    assert window.js(heights) == [True, False, False, False, False]
    window.click("#plan-2")
    assert window.js(heights) == [True, False, True, False, False]
    window.press("k")
    assert window.js(heights) == [True, True, True, True, False]
    assert "210 tokens (RGB) at K = 4" in window.summary
    assert [window.is_pressed(f"plan-{k}") for k in (1, 2, 4)] == [False, False, True]
    window.press("k")
    assert window.is_pressed("plan-1")


def test_the_plan_and_the_manifest_are_shown(window):
    cells = window.js(
        "return [...document.querySelectorAll('#plan tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert [row[0] for row in cells] == ["K = 1", "K = 2", "K = 4"]
    assert [row[4] for row in cells] == ["250", "450", "850"]
    assert not window.js("return document.querySelector('details dl').checkVisibility()")
    window.click("summary")
    assert "fingerprint" in window.js("return document.querySelector('details dl').innerText")


def test_playing_goes_on_and_stops(window, keys):
    from selenium.webdriver.support.wait import WebDriverWait

    window.press(keys.HOME, "p")
    start = window.slot
    WebDriverWait(window.chromium, 10, poll_frequency=0.05).until(lambda _: window.slot != start)
    assert window.js("return document.getElementById('play').textContent") == "Stop"
    window.press("p")
    assert window.js("return document.getElementById('play').textContent") == "Play"


COLOURS = """
    const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
    const [x, y, z] = getComputedStyle(document.body).color.match(/\\d+/g).map(Number);
    return [(r + g + b) / 3, (x + y + z) / 3]"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_the_systems_until_it_is_switched(chromium, page, scheme):
    window = Window(chromium)
    window.open(page, scheme=scheme)
    paper, ink = window.js(COLOURS)
    assert (paper > 200 and ink < 60) if scheme == "light" else (paper < 40 and ink > 200)
    window.press("t")
    assert (window.js(COLOURS)[0] > 128) == (scheme == "dark")
    window.click("#theme")
    assert (window.js(COLOURS)[0] > 128) == (scheme == "light")
    assert window.complaints == []


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_screen(chromium, page, width):
    window = Window(chromium)
    window.open(page, size=(width, 740, width < 700))
    window.js("document.querySelector('details').open = true")
    for _ in range(4):
        assert window.js("return document.documentElement.scrollWidth <= innerWidth")
        window.press("4", "3") if len(window.panels) > 2 else window.press("2")
    outside = """
        const scrolls = (e) => e && (getComputedStyle(e).overflowX === 'auto' || scrolls(e.parentElement));
        return [...document.querySelectorAll('body *')].filter(
            e => !scrolls(e) && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    assert window.js(outside) == []


def test_everything_that_can_be_used_has_a_name_a_size_and_a_visible_focus(chromium, page, keys):
    window = Window(chromium)
    window.open(page, size=PHONE)
    controls = window.js(
        "return [...document.querySelectorAll('button, input, summary')].map(e => "
        "[e.id || e.tagName, (e.getAttribute('aria-label') || e.textContent).trim(), e.offsetHeight])"
    )
    assert len(controls) == 11
    for name, label, height in controls:
        assert label, name
        assert height >= 24 or name == "SUMMARY", name
    window.press(keys.TAB)
    outline = "const s = getComputedStyle(document.activeElement); return [document.activeElement.id, s.outlineStyle]"
    seen = []
    for _ in range(10):
        name, style = window.js(outline)
        assert style == "solid", name
        seen.append(name)
        window.press(keys.TAB)
    assert seen[:3] == ["theme", "play", "slider"]


def test_nothing_was_fetched(window):
    assert window.js("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))") == []
