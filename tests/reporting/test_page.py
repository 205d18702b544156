"""The page as text: every figure is in it, nothing comes from elsewhere, and it is sound HTML."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from profiles import BENCH, VERIFICATION, profile

from lqcompile.reporting import roofline
from lqcompile.reporting.page import render
from lqcompile.reporting.words import TIMES

MADE = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)

VOID = {"meta", "link", "br", "wbr"}


class Reader(HTMLParser):
    """Reads a page: its elements, its text, and what is not closed as it was opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words, self.wrong = [], [], [], []
        self.feed(text)
        self.wrong += self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page():
    return render(profile(), made=MADE, verification=VERIFICATION, bench=BENCH)


@pytest.fixture(scope="module")
def reader(page):
    return Reader(page)


def test_key_figures(reader):
    for text in (
        "120.0 µs for one sample",
        "34.7 % of the bound",
        f"10.9{TIMES} smaller weights",
        f"4.0{TIMES} as fast as onnxruntime-fp32",
        "Equal to its ONNX file 12,345 codes compared, 0 differ",
        "93.5 % right answers of 1,000; ONNX Runtime 93.0 %",
        f"3{TIMES}3, 64 to 64 channels, 10{TIMES}10",
        "cost table: 1.5 x popcount at 4 plane pairs",
        "Without a choice: fc (dot8: 8-bit weights on 8-bit codes)",
        "unaccounted for",
        "189.4 kB",
        "2.00 GHz",
        "Test CPU <1>",
        "2026-11-21 12:30 UTC",
    ):
        assert text in reader.text, text


def test_sound_html(reader):
    assert reader.wrong == []
    names = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(names) == len(set(names))
    targets = {attributes["href"] for attributes in reader.all("a")}
    assert targets == {f"#layer-{number}" for number in (1, 2, 3)}  # the fourth took no time
    assert {name[1:] for name in targets} <= set(names)


def test_nothing_comes_from_elsewhere(page, reader):
    assert not {"script", "img", "iframe", "object", "embed"} & {tag for tag, _ in reader.elements}
    addresses = {value for _, found in reader.elements for key, value in found.items() if key.endswith(("href", "src"))}
    assert all(address.startswith("#") or address == "data:," for address in addresses)
    assert not re.search(r"@import|url\((?!#)", page)


def test_tables_have_heads_and_names(reader):
    assert all(attributes.get("scope") in ("col", "row") for attributes in reader.all("th"))
    assert len(reader.all("caption")) == len(reader.all("table"))
    assert all(attributes.get("aria-label") for attributes in reader.all("svg"))
    assert [attributes["lang"] for attributes in reader.all("html")] == ["en"]


def test_names_of_layers_are_text():
    name = "<script>alert(1)</script>"
    found = profile()
    found["layers"][1]["name"] = name
    reader = Reader(render(found, made=MADE))
    assert "script" not in {tag for tag, _ in reader.elements}
    assert name in reader.text


def test_without_verification_it_says_how_to_get_one():
    reader = Reader(render(profile(), made=MADE))
    assert reader.wrong == []
    assert "Not checked for this report: give the ONNX file with --model" in reader.text
    assert "Against others" not in reader.text


def test_a_failed_verification_stands_at_the_top():
    failed = VERIFICATION | {"passed": False}
    text = Reader(render(profile(), made=MADE, verification=failed)).text
    assert text.index("Not equal to its ONNX file. See Equality.") < text.index("The network")
    assert "NOT equal to the ONNX file in ONNX Runtime" in text


def test_times_of_an_emulator_carry_a_warning():
    found = profile()
    found["machine"]["emulator"] = "qemu-user"
    assert "Under emulation (qemu-user). These times mean nothing." in Reader(render(found, made=MADE)).text


def test_without_a_bound_it_says_so():
    text = Reader(render(profile(name="arm-neon"), made=MADE)).text
    assert "this target stands for unlike cores and tells none" in text
    assert "of the bound" not in text


def test_unknown_families_and_caches_are_shown():
    found = profile()
    found["layers"][1]["work"]["kernel"] = "new"
    found["machine"]["caches"] = []
    reader = Reader(render(found, made=MADE))
    assert "caches unknown" in reader.text
    assert any("k-other" in attributes.get("class", "") for attributes in reader.all("span"))


def test_dots_and_ceilings_of_the_roofline():
    found = profile()
    conv, linear = roofline.dots(found)
    assert (conv.number, conv.kernel) == (2, "lut")
    assert conv.per_s == pytest.approx(4 * 4_096_000 / 80e-6)
    assert conv.per_byte == pytest.approx(4 * 4_096_000 / (20_000 + 1_600 + 1_600))
    assert linear.per_s == pytest.approx(6_400 / 21e-6)
    assert roofline.ceilings(found) == {("lut", 512e9): ["Lookup"], ("dot8", 64e9): ["DotPairs"]}
    for dot in (conv, linear):
        (peak,) = (peak for kernel, peak in roofline.ceilings(found) if kernel == dot.kernel)
        assert dot.per_s < peak


def test_a_network_that_took_no_time_has_no_roofline():
    found = profile()
    for entry in found["layers"]:
        entry["time"] = dict.fromkeys(entry["time"], 0.0)
    reader = Reader(render(found, made=MADE))
    assert reader.wrong == [] and not reader.all("svg")
