"""examples/quantize_timm.py on a small network of timm, where timm is installed."""

import importlib.util
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
try:
    import timm  # noqa: F401 - the example needs it
except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError where its operators do not load
    pytest.skip(f"timm does not load ({error}); docs/networks.md says what does", allow_module_level=True)

EXAMPLE = Path(__file__).parents[1] / "examples" / "quantize_timm.py"


def test_a_network_of_timm_equals_its_file(tmp_path, seed, shared_target, capsys):
    spec = importlib.util.spec_from_file_location("quantize_timm", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with pytest.raises(SystemExit) as stop:
        example.main(["mobilenetv2_035", "--size", "64", "--target", shared_target, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert stop.value.code == 0, printed
    assert "mobilenetv2_035: 34 layers with weights of 2 bits, 2 layers with weights of 8 bits, 17 layers" in printed
    compared = re.search(r"^0 of ([\d,]+) codes and integers differ$", printed, re.MULTILINE)
    assert compared and int(compared[1].replace(",", "")) > 500_000
