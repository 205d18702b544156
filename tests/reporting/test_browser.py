"""The page in headless Chromium: on a phone, on a desk, by night and on paper; alone, without errors, in full."""

import importlib.util
import re
import shutil
from datetime import UTC, datetime

import pytest
from profiles import BENCH, VERIFICATION, profile

from lqcompile.reporting.page import render

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (on Debian: apt install chromium)"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="there is no playwright ([dev])"),
]

LAYERS = 40
"""As many as ResNet-34 has; with long names."""

CONTRAST = 4.5
"""Least of text that is not large: WCAG 2.2, 1.4.3."""

MEASURE_CONTRAST = """
() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const colour = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const found = colour(getComputedStyle(element).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("svg") || !element.getClientRects().length) continue;
    const [a, b] = [light(colour(getComputedStyle(element).color)), light(behind(element))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.textContent.trim().slice(0, 40)]);
  }
  return found;
}
"""


FAMILIES = {"lut": "Lookup", "dot8": "DotBytes", "popcount": "PopcountBytes", "packed": "Packed", "float": "FloatFma"}


def large_profile():
    """Many layers of every family, with names as exporters write them."""
    found = profile()
    usual = found["layers"][1]
    found["layers"] = []
    for index in range(LAYERS):
        kernel = list(FAMILIES)[index % len(FAMILIES)]
        name = f"layer{index // 4}_{index % 4}_downsample_bottleneck_convolution_{index}"
        work = usual["work"] | {"kernel": kernel, "loop": FAMILIES[kernel]}
        found["layers"].append(usual | {"name": name, "share": 1 / LAYERS, "work": work})
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The usual page and a large one."""
    folder = tmp_path_factory.mktemp("report")
    made = datetime(2026, 11, 21, tzinfo=UTC)
    (folder / "usual.html").write_text(render(profile(), made=made, verification=VERIFICATION, bench=BENCH))
    (folder / "large.html").write_text(render(large_profile(), made=made))
    return folder


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as program:
        running = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser, files):
    """Opens a page; gives it, with the `complaints` of its console and the addresses that it `asked` for."""
    contexts = []

    def open_page(name, width, height=800, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.asked = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto((files / name).as_uri(), wait_until="load")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", ["usual.html", "large.html"])
def test_it_opens_alone_and_fits_every_window(visit, name):
    page = visit(name, 1400)
    for width in (1400, 800, 390, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = page.evaluate(
            "width => [...document.querySelectorAll('main *, header *')].filter(e => !e.closest('svg') && "
            "e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML.slice(0, 80))",
            width,
        )
        assert outside == [], width
    assert page.complaints == []
    assert [address for address in page.asked if not address.startswith("data:")] == [page.url]


def test_key_figures_are_seen(visit):
    page = visit("usual.html", 390)
    text = re.sub(r"\s+", " ", page.inner_text("body"))
    for figure in ("120.0 µs", "34.7 %", "10.9", "4.0", "Equal", "93.5 %", "2.00 GHz", "1.50", "512 G/s"):
        assert figure in text, figure
    assert page.locator("table.layers tbody tr").count() == 4
    assert all(page.locator("table.layers tbody tr").nth(index).is_visible() for index in range(4))


@pytest.mark.parametrize(("width", "seen"), [(390, "narrow"), (1400, "wide")])
def test_one_drawing_of_the_roofline_is_seen(visit, width, seen):
    page = visit("usual.html", width)
    shown = page.locator("svg.plot").evaluate_all(
        "all => all.filter(e => e.getClientRects().length).map(e => e.classList[1])"
    )
    assert shown == [seen]
    letters = page.locator(f"svg.{seen} text").first.evaluate("e => e.getBoundingClientRect().height")
    assert letters >= 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_by_day_and_by_night(visit, scheme):
    page = visit("large.html", 1400, scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(16, 21, 28)"}[scheme]
    faint = [entry for entry in page.evaluate(MEASURE_CONTRAST) if entry[0] < CONTRAST]
    assert faint == []


def test_by_night_it_prints_on_white_paper(visit):
    page = visit("usual.html", 794, scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    assert page.locator("svg.plot.wide").is_visible() and not page.locator("svg.plot.narrow").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF-")


def test_a_strip_leads_to_its_layer(visit):
    page = visit("usual.html", 1400)
    page.locator("ol.strip a").nth(1).click()
    assert page.url.endswith("#layer-2")
    assert page.locator("tr:target .name").inner_text() == "conv"
    names = page.locator("ol.strip a").evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    assert all(re.search(r"\w+: .+ %", name) for name in names)
