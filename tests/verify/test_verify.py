"""`verify` passes what equals the reference and reports a single wrong code, integer, float or output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from fakes import Arrays, Damage, OneWrongInteger, OneWrongOutput, ReferenceModel
from models import Builder, chain_model, classifier_model, conv_model, linear_model, random_input, residual_model

from lqcompile.errors import InputError, VerificationError
from lqcompile.verify import Report, prove, verify


def mixed_model(rng: np.random.Generator) -> onnx.ModelProto:
    """Branches that are concatenated, pooled, weight-only, clipped and ended with a Softmax."""
    builder = Builder(rng, (4, 10, 10)).conv_float(8).batch_norm().clip(-1.0, 3.0)
    stem = builder.value
    left = builder.quantize(2, offset=-0.4).conv(6, offset=True).value
    builder.at(stem).conv(6, bits=3).per_channel("Mul").concat(left).quantize(3).average_pool()
    builder.quantize8("int8").conv8(8, stride=2).relu().max_pool(3, 1, 1)
    builder.quantize(2, integer=True).conv(8, group=2, integer=True).global_average_pool().flatten()
    return builder.gemm_float(5).softmax().build()


def concatenated_model(rng: np.random.Generator) -> onnx.ModelProto:
    """Layers over concatenations: of several quantizers and float32, pooled, of one quantizer, grouped."""
    builder = Builder(rng, (4, 10, 10)).conv_float(8).batch_norm().relu()
    stem = builder.value
    left = builder.quantize(2, offset=-0.2).value
    middle = builder.at(stem).quantize(3, integer=True).value
    narrow = builder.at(stem).quantize(1).max_pool().value
    wide = builder.at(left).concat(middle).concat(stem).conv(8, integer=True).batch_norm().relu().quantize(2).value
    codes = builder.max_pool().concat(narrow).conv(8, group=2, offset=True).quantize(2).value
    builder.at(wide).max_pool().concat(codes).concat(codes).conv(6).relu()
    return builder.global_average_pool().flatten().gemm_float(5).build()


MODELS = {
    "concatenated": concatenated_model,
    "8-bit edges": classifier_model,
    "float edges": lambda rng: classifier_model(rng, edges="float", integer=False),
    "chain": chain_model,
    "residual": residual_model,
    "integer residual": lambda rng: residual_model(rng, integer=True),
    "weight only": lambda rng: conv_model(rng, act_bits=None, batch_norm=True, out_bits=3),
    "offsets": lambda rng: conv_model(
        rng, weight_offset=True, act_offset=-0.3, batch_norm=True, max_pool=True, residual=True, out_bits=2
    ),
    "linear": lambda rng: linear_model(rng, act_offset=0.2, out_bits=2),
    "mixed": mixed_model,
}


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def check_consistent(report: Report) -> None:
    """Totals are sums of the layers, and the report survives JSON."""
    text = json.loads(json.dumps(report.to_json()))
    forced = text["forced"]
    for key in ("codes", "mismatches", "near_threshold", "integers", "integer_mismatches"):
        assert forced[key] == sum(layer[key] for layer in forced["per_layer"])
        assert all(
            layer[key] == layer["against"]["integer_form"][key] + layer["against"]["stock_file"][key]
            for layer in forced["per_layer"]
        )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", MODELS)
def test_the_reference_passes(kind: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    model = MODELS[kind](rng)
    path = saved(tmp_path, model)
    compiled = ReferenceModel(path)
    report = verify(path, compiled, random_input(rng, model, batch=3))
    assert report.passed, report.to_json()
    assert report.accuracy is None
    assert report.reference == ("integer form" if kind != "weight only" else "stock file")
    assert report.free.samples == 3
    assert report.free.top1_agreement >= 2 / 3
    assert report.free.outputs == sum(3 * int(np.prod(shape)) for _, _, shape in compiled.plan.outputs)
    check_consistent(report)
    for layer in report.layers:
        assert layer.bit_equal or not layer.exact
        assert layer.integer_form.codes + layer.integer_form.floats > 0
        # Each layer is held against the file as well, and every code that the plan has is one of the file's.
        assert layer.stock_file.codes == layer.integer_form.codes
    assert all(layer.integer_form.near_threshold == 0 for layer in report.layers if layer.exact)


def test_the_report_has_its_keys(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    model = classifier_model(rng)
    path = saved(tmp_path, model)
    labels = np.arange(6) % 10
    steps: list[tuple[str, float]] = []
    compiled = ReferenceModel(path)
    samples = random_input(rng, model, batch=6)
    report = verify(path, compiled, samples, labels, lambda doing, done: steps.append((doing, done)))
    text = report.to_json()
    assert list(text) == ["passed", "reference", "forced", "free", "accuracy"]
    assert list(text["forced"]) == [
        "layers",
        "codes",
        "mismatches",
        "near_threshold",
        "integers",
        "integer_mismatches",
        "floats",
        "float_mismatches",
        "per_layer",
    ]
    assert list(text["free"]) == [
        "samples",
        "top1_agreement",
        "max_abs_diff",
        "bit_equal_until",
        "outputs",
        "output_mismatches",
    ]
    assert list(text["forced"]["per_layer"][0])[:3] == ["name", "op", "exact"]
    answers = compiled.run(samples)["v_gemm_16"].argmax(axis=1)
    assert text["accuracy"]["compiled"] == pytest.approx((answers == labels).mean())
    assert text["free"]["bit_equal_until"] == compiled.plan.regions[-1].name
    assert text["forced"]["layers"] == 5
    assert steps[-1] == ("comparing outputs", 1.0)
    assert [done for _, done in steps] == sorted(done for _, done in steps)


@pytest.mark.parametrize("seed", range(3))
def test_one_wrong_code_is_found_where_it_is(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    model = chain_model(rng)
    path = saved(tmp_path, model)
    plan = ReferenceModel(path).plan
    wrong = next(r for r in plan.regions[1:] if r.outputs[0].value.quantizer is not None)

    def damage(name: str, outputs: Arrays) -> None:
        if name == wrong.name:
            codes = outputs[wrong.outputs[0].value.name]
            codes[1].flat[5] ^= 1

    report = verify(path, ReferenceModel(path, damage), random_input(rng, model, batch=4))
    assert not report.passed
    layers = {layer.name: layer for layer in report.layers}
    assert layers[wrong.name].integer_form.mismatches == 1
    assert not layers[wrong.name].bit_equal
    assert sum(layer.integer_form.mismatches for layer in report.layers) == 1
    before = [region.name for region in plan.regions]
    assert report.free.bit_equal_until == before[before.index(wrong.name) - 1]
    # The layers one by one give what the whole gives: that is not where it is wrong.
    assert report.free.output_mismatches == 0


@pytest.mark.parametrize("kind", ["chain", "integer residual", "8-bit edges"])
def test_one_wrong_integer_is_found(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    model = MODELS[kind](rng)
    path = saved(tmp_path, model)
    plan = ReferenceModel(path).plan
    wrong = [region.name for region in plan.regions if "onv" in region.name][-1]
    report = verify(path, OneWrongInteger(path, wrong), random_input(rng, model, batch=2))
    assert not report.passed
    assert {layer.name: layer.integer_form.integer_mismatches for layer in report.layers if layer.total.failed} == {
        wrong: 1
    }


def test_one_float_of_an_exact_layer_that_is_the_next_one_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    model = residual_model(rng)
    path = saved(tmp_path, model)
    plan = ReferenceModel(path).plan
    wrong = next(
        (region, output.value)
        for region in plan.regions
        for output in region.outputs
        if output.value.quantizer is None and "conv" in region.name
    )

    def damage(name: str, outputs: Arrays) -> None:
        if name == wrong[0].name:
            array = outputs[wrong[1].name]
            array[0].flat[0] = np.nextafter(array[0].flat[0], np.float32(np.inf))

    report = verify(path, ReferenceModel(path, damage), random_input(rng, model, batch=2))
    assert not report.passed
    found = {layer.name: layer.integer_form.float_mismatches for layer in report.layers if layer.total.failed}
    assert found == {wrong[0].name: 1}


@pytest.mark.parametrize(("error", "passes"), [(1e-7, True), (1e-3, False)])
def test_a_float_layer_may_round_but_no_more(error: float, passes: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    model = classifier_model(rng, edges="float", integer=False)
    path = saved(tmp_path, model)
    last = ReferenceModel(path).plan.regions[-1]

    def damage(name: str, outputs: Arrays) -> None:
        if name == last.name:
            outputs[last.outputs[0].value.name] += np.float32(error)

    report = verify(path, ReferenceModel(path, damage), random_input(rng, model, batch=2))
    assert report.passed is passes
    assert report.layers[-1].integer_form.float_mismatches == (0 if passes else 20)
    assert report.layers[-1].stock_file.float_mismatches == (0 if passes else 20)
    assert report.free.bit_equal_until != last.name


def test_a_wrong_output_of_right_layers_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for model in (classifier_model(rng), classifier_model(rng, edges="float")):
        path = saved(tmp_path, model)
        samples = random_input(rng, model, batch=2)
        assert verify(path, ReferenceModel(path), samples).passed
        report = verify(path, OneWrongOutput(path), samples)
        assert not report.passed
        assert report.free.output_mismatches == 1
        assert not report.forced.failed


def test_chunks_of_samples_give_the_same_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    model = classifier_model(rng)
    path = saved(tmp_path, model)
    samples, labels = random_input(rng, model, batch=5), np.arange(5)
    whole = verify(path, ReferenceModel(path), samples, labels).to_json()
    monkeypatch.setattr(prove, "MAX_CHUNK", 2)
    parts = verify(path, ReferenceModel(path), samples, labels).to_json()
    # The file's own float32 output may round otherwise for another number of samples.
    assert parts["free"].pop("max_abs_diff") == pytest.approx(whole["free"].pop("max_abs_diff"), abs=1e-5)
    assert parts == whole


def test_a_file_of_fixed_batch_runs_in_that_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    model = classifier_model(rng, batch=2)
    path = saved(tmp_path, model)
    samples = rng.normal(size=(4, 1, 12, 12)).astype(np.float32)
    assert verify(path, ReferenceModel(path), {"x": samples}).passed
    message = r"^samples: found 3, expected a multiple of 2, the batch size of the file$"
    with pytest.raises(InputError, match=message):
        verify(path, ReferenceModel(path), {"x": samples[:3]})


def test_a_compiled_model_of_another_file_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    path = saved(tmp_path, classifier_model(rng))
    compiled = ReferenceModel(path)
    compiled.plan_values.discard("v_lqquantize_6")
    message = (
        r"^model '.*model\.onnx': found a compiled model without the value 'v_lqquantize_6', expected one that was "
        r"built from this file; build it again$"
    )
    with pytest.raises(VerificationError, match=message):
        verify(path, compiled, {"x": np.zeros((1, 1, 12, 12), np.float32)})


def drop(name: str, outputs: Arrays) -> None:
    outputs.clear()


def halve(name: str, outputs: Arrays) -> None:
    outputs.update({key: array[:1] for key, array in outputs.items()})


def widen(name: str, outputs: Arrays) -> None:
    outputs.update({key: array.astype(np.int32) for key, array in outputs.items()})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"found outputs \[\], expected 'v_quantizelinear_0' among them"),
        (halve, r"found uint8\[1, 1, 12, 12\] for 'v_quantizelinear_0', expected uint8\[2, 1, 12, 12\]"),
        (widen, r"found int32\[2, 1, 12, 12\] for 'v_quantizelinear_0', expected uint8\[2, 1, 12, 12\]"),
    ],
)
def test_outputs_of_another_form_are_refused(damage: Damage, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path, classifier_model(np.random.default_rng(9)))
    whole = rf"^region 'quantizelinear_0' \(QuantizeLinear\): {message}; build the artifact again$"
    with pytest.raises(VerificationError, match=whole):
        verify(path, ReferenceModel(path, damage), {"x": np.zeros((2, 1, 12, 12), np.float32)})


def test_integers_of_another_form_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, classifier_model(np.random.default_rng(10)))
    compiled = ReferenceModel(path)
    compiled.run_sums = lambda name, values: np.zeros((2, 3), np.int32)  # type: ignore[method-assign]
    message = (
        r"^region 'conv_3' \(Conv\): found integers int32\[2, 3\], expected int32\[2, 8, 12, 12\]; "
        r"build the artifact again$"
    )
    with pytest.raises(VerificationError, match=message):
        verify(path, compiled, {"x": np.zeros((2, 1, 12, 12), np.float32)})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], r"^labels: found int64\[3\], expected integers \[2\]; give one per sample$"),
        ([0.5, 1.0], r"^labels: found float64\[2\], expected integers \[2\]; give one per sample$"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: list[float], message: str, tmp_path: Path) -> None:
    path = saved(tmp_path, classifier_model(np.random.default_rng(11)))
    with pytest.raises(InputError, match=message):
        verify(path, ReferenceModel(path), {"x": np.zeros((2, 1, 12, 12), np.float32)}, labels)


def test_samples_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, classifier_model(np.random.default_rng(12)))
    with pytest.raises(InputError, match=r"^input 'x': found .*\[2, 1, 11, 12\].*, expected .*1, 12, 12"):
        verify(path, ReferenceModel(path), {"x": np.zeros((2, 1, 11, 12), np.float32)})
