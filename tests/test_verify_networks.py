"""benchmarks/verify_networks.py: the table that it writes."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import verify_networks

RESULT = {
    "network": "resnet50",
    "options": ["float_shortcut"],
    "bits": [2, 3],
    "image_size": 224,
    "target": "x86-avx2",
    "contractions": 54,
    "exact_contractions": 53,
    "float32_bytes": 102_228_128,
    "onnx_bytes": 7_400_000,
    "artifact_bytes": 8_140_000,
    "build_s": 12.4,
    "samples": 1,
    "passed": True,
    "forced": {"codes": 10_000, "mismatches": 1, "integers": 2_345, "integer_mismatches": 2},
    "free": {},
}


def test_a_network_is_a_row():
    head, rule, row = verify_networks.markdown([RESULT]).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")
    assert row == "| resnet50 `float_shortcut` W2A3 | 224 | 54, 1 | 102.2 | 7.4 | 8.1 | 12 | 12,345 | 3 |"


def test_rows_go_between_the_marks_and_others_stay(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{verify_networks.BEGIN}\n{verify_networks.END}\nafter\n", encoding="utf-8")
    first = RESULT | {"bits": [3, 3]}
    verify_networks.write_table(page, verify_networks.markdown([first]))
    verify_networks.write_table(page, verify_networks.markdown([RESULT | {"network": "alexnet"}, RESULT]))
    changed = [RESULT | {"network": "alexnet"}, RESULT, first | {"contractions": 7}]
    verify_networks.write_table(page, verify_networks.markdown(changed[2:]))
    table = verify_networks.markdown(changed)
    expected = f"before\n{verify_networks.BEGIN}\n\n{table}\n\n{verify_networks.END}\nafter\n"
    assert page.read_text(encoding="utf-8") == expected
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page.md: found no lines '<!-- networks: begin -->' and"):
        verify_networks.write_table(page, table)


def test_the_page_has_the_marks():
    text = (Path(__file__).parents[1] / "docs" / "networks.md").read_text(encoding="utf-8")
    assert text.count(verify_networks.BEGIN) == text.count(verify_networks.END) == 1


@dataclass
class Done:
    """A process that measured one network."""

    stdout: str


@pytest.mark.parametrize("equal", [True, False])
def test_every_network_in_every_width_is_a_process_and_a_difference_fails(equal, monkeypatch, tmp_path, capsys):
    pytest.importorskip("torch")
    page = tmp_path / "page.md"
    page.write_text(f"{verify_networks.BEGIN}\n{verify_networks.END}\n", encoding="utf-8")
    asked = []

    def measure(command, **_options):
        name, bits = (command[command.index(option) + 1] for option in ("--network", "--bits"))
        asked.append((name, bits))
        passed = equal or len(asked) != 2
        found = RESULT | {"network": name, "bits": [int(part) for part in bits.split("/")], "passed": passed}
        return Done(stdout=f"torch says something\n{json.dumps(found)}\n")

    monkeypatch.setattr(subprocess, "run", measure)
    options = ["--network", "resnet18", "alexnet", "--bits", "1/2", "3/3", "--write", str(page)]
    monkeypatch.setattr(sys, "argv", ["verify_networks.py", *options])
    if equal:
        verify_networks.main()
    else:
        with pytest.raises(SystemExit, match="1"):
            verify_networks.main()
    assert asked == [("resnet18", "1/2"), ("resnet18", "3/3"), ("alexnet", "1/2"), ("alexnet", "3/3")]
    written = page.read_text(encoding="utf-8")
    assert written.count("`float_shortcut` W") == 4 and "| alexnet `float_shortcut` W3A3 |" in written
    assert "| resnet18 `float_shortcut` W1A2 |" in capsys.readouterr().out
