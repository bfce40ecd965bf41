"""The report as a browser shows it: on a desk, on a phone, by day and by night."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmgen.tracking.report import write_report
from tests.browser.chromium import Chromium
from tests.tracking.fake_run import make_run

pytestmark = pytest.mark.browser

# The least contrast between the text of an element and what is behind it, over all elements with text of their own.
LEAST_CONTRAST = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = colour => {
    const [r, g, b] = colour.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  let least = [99, ''];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own) continue;
    const style = getComputedStyle(element);
    const ink = light(rgb(element instanceof SVGElement ? style.fill : style.color)), paper = light(behind(element));
    const contrast = (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
    if (contrast < least[0]) least = [contrast, element.outerHTML.slice(0, 120)];
  }
  return least;
})()
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    captions = ("firefighter: dark skin tone", "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen" * 2)
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "quickstart", captions)).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


def test_it_opens_from_disk_whole_and_asks_for_nothing(browser: Chromium, address: str) -> None:
    browser.open(address, 1200)
    assert browser.value("document.images.length") > 10
    assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth >= 32)")
    assert {request.partition(":")[0] for request in browser.requests} == {"file", "data"}
    assert [request for request in browser.requests if request.startswith("file")] == [address]
    assert browser.complaints == []
    assert browser.value("getComputedStyle(document.images[0]).imageRendering") == "pixelated"


@pytest.mark.parametrize("width", [320, 375, 768, 1600])
def test_nothing_sticks_out_at_any_width(browser: Chromium, address: str, width: int) -> None:
    browser.open(address, width)
    assert browser.value("document.documentElement.scrollWidth") <= width
    outside = f"[...document.querySelectorAll('.card *')].filter(e => e.getBoundingClientRect().right > {width}).length"
    assert browser.value(outside) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_by_day_and_by_night(browser: Chromium, address: str, scheme: str) -> None:
    browser.open(address, 1200, scheme=scheme)
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(20, 22, 26)") == (scheme == "dark")
    contrast, element = browser.value(LEAST_CONTRAST)
    assert contrast >= 4.5, element


def test_the_table_of_figures_becomes_blocks_on_a_phone(browser: Chromium, address: str) -> None:
    rows = (
        "[...document.querySelectorAll('.figures tbody tr:not(.group)')].map(row => row.getBoundingClientRect().height)"
    )
    browser.open(address, 375)
    narrow = browser.value(rows)
    browser.open(address, 1200)
    assert min(narrow) > 1.2 * min(browser.value(rows))


def test_the_config_opens_without_a_script(browser: Chromium, address: str) -> None:
    browser.open(address, 1200)
    height = "document.querySelector('details').getBoundingClientRect().height"
    closed = browser.value(height)
    browser.value("document.querySelector('summary').click()")
    assert browser.value(height) > closed + 100


def test_a_screenshot_is_not_blank(browser: Chromium, address: str, tmp_path: Path) -> None:
    import base64

    from mmgen.images import decode

    browser.open(address, 1200)
    image = decode(base64.b64decode(browser.call("Page.captureScreenshot")["data"]))
    assert image.shape[1:] == (900, 1200)
    assert image.std() > 0.05
