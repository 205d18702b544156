"""benchmarks/accuracy.py and quantization_error.py: runs, records, what is said of them, and the least error."""

import importlib.util
import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("scipy")

import torch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "accuracy.py"

sys.path.append(str(SCRIPT.parent))
from accuracy_bench import errors, levels, matrix, optimum, page, records, statistics, tables  # noqa: E402
from accuracy_bench.run import Case, convert, run_case, state_file  # noqa: E402

from lqcompile import models  # noqa: E402
from lqcompile.training import Arrays, Data  # noqa: E402


def record(setting="W2A2", method="lq", seed=0, top1=90.0, **changes):
    weight_bits, act_bits = matrix.SETTINGS[setting]
    row = records.Record(
        network="vgg_small",
        width=0.125,
        image_size=14,
        setting=setting,
        weight_bits=weight_bits,
        act_bits=act_bits,
        method=method,
        seed=seed,
        twin_epochs=4,
        epochs=1,
        lr=0.03,
        batch=128,
        train_images=60000,
        twin=91.0,
        calibrated=None if method == "float" else 50.0,
        top1=top1,
        integer_bases=top1 - 0.02 if method == "lq" else None,
        edges8=top1 - 0.2 if method == "lq" else None,
        integer_all=top1 - 0.1 if method == "lq" else None,
        seconds=60.0,
        machine="Some, CPU",
        torch="2",
        date="2026-01-01 00:00",
    )
    return replace(row, **changes)


def test_every_run_is_in_the_matrix_once_and_seed_0_tries_both_rates():
    networks = ["vgg_small", "resnet20"]
    cases = matrix.matrix(networks, 3, lambda network, setting, method: 0.03)
    pairs = 1 + 7 * len(matrix.METHODS)
    larger = [case for case in cases if case.form in matrix.LARGER]
    assert len(cases) == len(set(cases)) == 2 * (2 * pairs + 2 * pairs) + len(larger)
    assert len(larger) == 2 * 3 * 3 and {case.method for case in larger} == {"float", "lq"}
    first = cases[: 2 * pairs]
    assert {(case.network, case.seed) for case in first} == {("vgg_small", 0)}
    assert {case.setting for case in first} == set(matrix.SETTINGS) and {case.lr for case in first} == {0.01, 0.03}
    unknown = matrix.matrix(networks, 3, lambda network, setting, method: None)
    assert unknown[: 2 * pairs] == first and len(unknown) == 4 * pairs and {case.seed for case in unknown} == {0}
    other = matrix.matrix(["resnet20"], 3, lambda network, setting, method: 0.03)
    assert other == [case for case in cases if case.network == "resnet20"]


def test_every_network_chooses_its_rates_among_both_once_they_are_known():
    rows = [record(lr=0.03), record(lr=0.01, seed=1, top1=95.0), record(lr=0.01, network="resnet20", top1=95.0)]
    assert records.chosen_rate(rows, "vgg_small", "W2A2", "lq") is None
    rows.append(record(lr=0.01, top1=90.1))
    rows.append(record(lr=0.03, top1=95.0, epochs=6))
    assert records.chosen_rate(rows, "vgg_small", "W2A2", "lq") == 0.01
    form = {"network": "resnet20", "width": matrix.FORMS["resnet20"].width}
    rows += [record(lr=0.01, top1=80.0, **form), record(lr=0.03, top1=81.0, **form)]
    assert records.chosen_rate(rows, "resnet20", "W2A2", "lq") == 0.03


def test_records_are_added_and_read_back_and_done_runs_are_skipped(tmp_path):
    path = tmp_path / "new" / "results.csv"
    assert records.read_records(path) == []
    rows = [record(), record(method="float", setting="float"), record(method="lsq")]
    for row in rows:
        records.append_record(path, row)
    assert records.read_records(path) == rows
    left = records.remaining(matrix.matrix(["vgg_small"], 1, lambda network, setting, method: None), rows)
    assert len(left) == 44 - 3 and rows[0].case not in left
    path.write_text("network,seed\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"results.csv: found columns \['network', 'seed'\], expected"):
        records.read_records(path)


def test_intervals_are_those_of_student():
    # Quantiles of Student's distribution: 4.303 with 2 degrees of freedom, 2.776 with 4.
    found = statistics.interval([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3) and found.half == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    pooled = statistics.pooled_intervals({"a": [1.0, 2.0, 3.0], "b": [4.0, 6.0, 8.0], "c": [5.0]})
    assert pooled["a"].half == pytest.approx(2.776 * 2.5**0.5 / 3**0.5, rel=1e-3)
    assert pooled["c"].half == pytest.approx(2.776 * 2.5**0.5, rel=1e-3)
    assert statistics.pooled_intervals({"a": [1.0, 2.0]})["a"].half is None
    assert statistics.interval([1.0, 1.0]).half is None


@pytest.mark.parametrize(
    ("mean", "half", "least", "most"),
    [
        (1.0, 0.5, "shown", "refuted"),
        (-1.0, 0.5, "refuted", "shown"),
        (0.2, 0.5, "not shown", "not shown"),
        (1.0, None, "not shown", "not shown"),
    ],
)
def test_verdicts(mean, half, least, most):
    found = statistics.Interval(mean=mean, count=3, half=half)
    assert (found.at_least(0.0), found.at_most(0.0)) == (least, most)


def test_tables_say_what_the_records_say():
    rows = []
    for seed, shift in enumerate((0.0, 0.1, -0.1)):
        rows.append(record("float", "float", seed, 92.0 + shift))
        rows += [record("W2A2", method, seed, top1 + shift) for method, top1 in (("lq", 91.5), ("lsq", 90.5))]
        rows.append(record("W2A2", "dorefa-pact", seed, 91.6 + 5 * shift))
    untested = dict.fromkeys(("integer_bases", "edges8", "integer_all"))
    rows += [replace(row, lr=0.01, top1=80.0, **untested) for row in rows if row.seed == 0]
    text = tables.markdown(rows)
    assert "| W2A2 | 80.00 | 91.50 | 80.00 | 90.50 | 80.00 | 91.60 |" in text
    assert "| W2A2 | 91.50 ± 0.10 (3) | 90.50 ± 0.10 (3) | 91.60 ± 0.50 (3) |" in text
    assert "| float | 92.00 ± 0.10 (3) | | |" in text
    assert "| W2A2 | +1.00 ± 0.00 (3) | -0.10 ± 0.99 (3) | -0.50 ± 0.00 (3) |" in text
    assert "| W2A2: LQ at least as good as LSQ | shown |" in text
    assert "| W2A2: LQ at least as good as DoReFa/PACT | not shown |" in text
    assert "| W2A2: LQ within 0.8 points of float | shown |" in text and "W3A3:" not in text
    assert "| integer bases: less than 0.1 points | shown |" in text
    assert "| 8-bit first and last layer: less than 0.1 points | refuted |" in text
    assert "### resnet20\n\nNo runs." in text


def test_larger_forms_stand_beside_the_usual_one():
    rows = []
    for seed, shift in enumerate((0.0, 0.1, -0.1)):
        rows += [record("float", "float", seed, 89.0 + shift), record("W2A2", "lq", seed, 87.0)]
        rows += [record("float", "float", seed, 91.0 + shift, epochs=6)]
        rows += [record("W2A2", "lq", seed, 90.5 + shift, epochs=6)]
    rows += [replace(row, lr=0.01, top1=80.0) for row in rows if (row.seed, row.epochs) == (0, 1)]
    before, after = tables.markdown(rows).split("### vgg_small, wider, or trained for longer")
    assert "| W2A2 | 87.00 ± 0.00 (3) |" in before and "| W2A2: LQ within 0.8 points of float | refuted |" in before
    assert "| 0.125 | 1 | 89.00 ± 0.10 (3) | - | - | 87.00 ± 0.00 (3) | -2.00 ± 0.25 (3) |" in after
    assert "| 0.125 | 6 | 91.00 ± 0.10 (3) | - | - | 90.50 ± 0.10 (3) | -0.50 ± 0.00 (3) |" in after
    assert "| 0.25 | 1 | - | - | - | - | - |" in after
    assert "| W2A2 within 0.8 points of float | 0.125 | 6 | shown |" in after and "W3A3 within" not in after


def test_tables_of_a_matrix_that_has_only_begun():
    text = tables.markdown([record("float", "float"), record("W2A2", "lsq")])
    assert "| W2A2 | - | - | - | 90.00 | - | - |" in text and "### vgg_small\n\nNo runs." in text
    both = [
        record(setting, method, lr=lr)
        for setting, method in (("float", "float"), ("W2A2", "lsq"))
        for lr in (0.01, 0.03)
    ]
    text = tables.markdown(both)
    assert "| W2A2 | - | 90.00 (1) | - |" in text and "| W2A2 | - | - | - |" in text
    assert "| integer bases | - |" in text and "shown" not in text


def test_a_section_of_a_page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n", encoding="utf-8")
    page.write_section(path, "x", "new")
    assert path.read_text(encoding="utf-8") == "a\n<!-- x: begin -->\n\nnew\n<!-- x: end -->\nb\n"
    with pytest.raises(ValueError, match=r"page.md: found no lines '<!-- y: begin -->' and '<!-- y: end -->'"):
        page.write_section(path, "y", "new")


def test_the_command_lists_what_is_left(tmp_path):
    options = ["--list", "--network", "vgg_small", "--seeds", "1", "--results", tmp_path / "none.csv"]
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 44 and done.stdout.startswith(
        "vgg_small width 0.125 epochs 1 float float seed 0 rate 0.01\n"
    )


@pytest.mark.parametrize("zero", [True, False])
def test_free_levels_are_the_best_cut_of_all(zero):
    rng = np.random.default_rng(7)
    values = rng.random(9)
    ordered = np.sort(values)

    def error(cuts):
        runs = np.split(ordered, cuts)
        centres = [0.0 if zero and not index else run.mean() if len(run) else 0.0 for index, run in enumerate(runs)]
        return sum(float(((run - centre) ** 2).sum()) for run, centre in zip(runs, centres, strict=True))

    expected = min(error(cuts) for cuts in itertools.combinations_with_replacement(range(10), 2))
    assert optimum.free_levels_error(values, 3, zero=zero) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["weights", "activations"])
def test_errors_are_ordered_and_exact_for_one_bit(kind, monkeypatch):
    monkeypatch.setattr(optimum, "STARTS", 8)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(1, 150, generator=generator)
    rows = rows if kind == "weights" else rows.relu()
    both = [errors.measure("layer", kind, rows, bits, seed=0) for bits in (1, 2)]
    for found in both:
        assert 0 < found.free <= found.best_basis * (1 + 1e-5)
        assert found.best_basis <= found.learned * (1 + 1e-4) and found.best_basis <= found.uniform * (1 + 1e-4)
    if kind == "weights":
        # The best single basis vector is the mean magnitude, and 1 - mean|w|**2 / mean(w**2) remains.
        magnitude = rows.abs().mean(1, keepdim=True)
        expected = 100 * (rows.square() - magnitude**2).sum() / rows.square().sum()
        assert both[0].learned == pytest.approx(expected.item(), rel=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One run on a few random images, twice: the records, the finished network, the images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (256, 1, 14, 14), generator=generator, dtype=torch.uint8)
    source = Arrays(images=images, labels=torch.randint(0, 10, (256,), generator=generator))
    data = Data(train=source, test=source)
    form = replace(matrix.FORMS["vgg_small"], twin_epochs=1, width=0.0625)
    case = Case(network="vgg_small", form=form, setting="W2A2", method="lq", seed=5, lr=0.03)
    found = run_case(case, data, folder)
    model = models.create("vgg_small", weight_bits=None, in_channels=1, image_size=14, width=0.0625)
    convert(model, case)
    model.load_state_dict(torch.load(state_file(case, folder), weights_only=True))
    again = run_case(case, data, folder)
    torch.set_num_threads(threads)
    return found, again, model, images.float() / 255


def test_a_run_can_be_repeated(trained):
    first, second, *_ = trained
    varying = {"seconds": 0.0, "date": ""}
    assert replace(first, **varying) == replace(second, **varying)
    form = replace(matrix.FORMS["vgg_small"], twin_epochs=1, width=0.0625)
    assert first.case == Case(network="vgg_small", form=form, setting="W2A2", method="lq", seed=5, lr=0.03)
    assert None not in (first.calibrated, first.integer_bases, first.edges8, first.integer_all)
    assert first.train_images == 256 and first.weight_bits == 2


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="plots are made with matplotlib")
def test_plots_depend_on_the_network_alone(trained, tmp_path):
    *_, model, images = trained
    values = errors.layer_values(model.eval(), images, seed=1)
    assert len(values) == 5
    for name in ("one.svg", "two.svg"):
        levels.plot_levels(model, values, "title", tmp_path / "figures" / name)
    one, two = ((tmp_path / "figures" / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two and b"<svg" in one
