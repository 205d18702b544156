"""From ONNX files to artifacts that equal the reference and that `verify` passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from compiling import X86, missing
from models import Builder, chain_model, classifier_model, conv_model, random_input, residual_model

from lqcompile.artifact import read_artifact
from lqcompile.build import build
from lqcompile.errors import BuildError, TargetError
from lqcompile.graph.check import load_checked
from lqcompile.graph.fuse import make_plan
from lqcompile.lowering.lower import KINDS
from lqcompile.reference import execute, graph_outputs
from lqcompile.runtime import load
from lqcompile.target import find
from lqcompile.verify import verify

RUNNABLE = [name for name in X86 if not missing(find(name))]

pytestmark = pytest.mark.skipif(not RUNNABLE, reason="this CPU runs none of the x86 targets")


def tied_model(rng: np.random.Generator) -> onnx.ModelProto:
    """Equal entries in an integer basis: two levels tie, and the codes are read as bytes."""
    builder = Builder(rng, (4, 6, 6)).quantize(2, integer=True).conv(8, integer=True).batch_norm()
    builder.quantize(2, integer=True).conv(5, bits=4, integer=True)
    quantizers = [node for node in builder.nodes if node.op_type == "LQQuantize"]
    for node in quantizers:
        at = {name: index for index, name in enumerate(node.input)}
        arrays = {name: onnx.numpy_helper.to_array(t) for t in builder.initializers if (name := t.name) in at}
        scale = next(a for n, a in arrays.items() if at[n] == 6)
        changes = {2: scale * np.float32([0, 3, 3, 6]), 3: np.float32([3, 3]), 4: np.uint8([0, 1, 2, 3])}
        for tensor in builder.initializers:
            if at.get(tensor.name) in changes:
                array = changes[at[tensor.name]].astype(arrays[tensor.name].dtype)
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return builder.build()


def mobile_model(rng: np.random.Generator) -> onnx.ModelProto:
    """Blocks as in MobileNet: depthwise layers in 8 bits and low bits, each before a 1x1 layer, and a grouped one."""
    builder = Builder(rng, (3, 12, 12)).quantize8().conv8(24, stride=2).relu()
    builder.quantize8().conv8(24, group=24).batch_norm().relu()
    builder.quantize(2, integer=True).conv(40, kernel=1, integer=True).batch_norm().relu()
    builder.quantize(2, integer=True).conv(40, stride=2, group=40, integer=True).batch_norm().relu()
    builder.quantize(2).conv(48, kernel=1).batch_norm().relu()
    builder.quantize(2).conv(48, group=48).batch_norm().relu()
    return builder.quantize(2).conv(32, group=4).batch_norm().build()


MODELS: dict[str, Callable[[np.random.Generator], onnx.ModelProto]] = {
    "chain": lambda rng: chain_model(rng, channels=(8, 16, 12)),
    "integer chain": lambda rng: chain_model(rng, channels=(8, 16, 12), integer=True, weight_bits=3),
    "residual": residual_model,
    "integer residual": lambda rng: residual_model(rng, integer=True, act_bits=3),
    "classifier": lambda rng: classifier_model(rng, edges="float", integer=False),
    "integer classifier": classifier_model,
    "tied levels": tied_model,
    "mobile": mobile_model,
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_built_model_is_verified(kind: str, tmp_path: Path) -> None:
    seed = list(MODELS).index(kind)
    rng = np.random.default_rng(seed)
    model, path, artifact = MODELS[kind](rng), tmp_path / "model.onnx", tmp_path / "model.tar"
    onnx.save(model, path)
    target = RUNNABLE[seed % len(RUNNABLE)]
    steps: list[tuple[str, float]] = []
    report = build(path, target=target, output=artifact, progress=lambda text, share: steps.append((text, share)))
    assert [share for _, share in steps] == sorted(share for _, share in steps)
    assert steps[-1] == ("done", 1.0)
    assert (report.target, report.variants) == (target, (target,))
    assert report.artifact_bytes == artifact.stat().st_size and report.onnx_bytes == path.stat().st_size
    layers = {node.name for node in model.graph.node if node.op_type in ("LQConv", "LQLinear", "Conv", "Gemm")}
    assert {layer["name"] for layer in report.layers} == layers
    assert all(layer["reason"] and layer["kernel"] in KINDS for layer in report.layers)
    compiled = load(artifact)
    feeds = random_input(rng, model, batch=5)
    plan = make_plan(load_checked(path))
    found = compiled.run(feeds)
    for name, expected in graph_outputs(plan, execute(plan, feeds)).items():
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5 if "float" in kind else 1e-4)
    result = verify(path, compiled, feeds)
    assert result.passed, result.to_json()
    forced = result.to_json()["forced"]
    assert (forced["mismatches"], forced["integer_mismatches"]) == (0, 0)
    assert forced["codes"] > 0 and forced["integers"] > 0


def test_the_artifact_of_x86_holds_every_variant(tmp_path: Path) -> None:
    path, artifact = tmp_path / "model.onnx", tmp_path / "model.tar"
    onnx.save(conv_model(np.random.default_rng(3), size=(4, 4), out_bits=2), path)
    report = build(path, target="x86", output=artifact, dump_ir=tmp_path / "ir")
    assert list(report.variants) == X86
    manifest = read_artifact(artifact).manifest
    assert [variant["name"] for variant in manifest["variants"]] == X86
    assert manifest["onnx"]["bytes"] == path.stat().st_size
    assert load(artifact).variant["name"] == RUNNABLE[-1]
    written = {file.name: file.read_text() for file in (tmp_path / "ir").iterdir()}
    expected = {"1_plan.txt"}
    for name in X86:
        expected |= {f"2_relax_{name}.py", f"3_driver_{name}.py", f"4_{name}.s"}
    assert written.keys() == expected
    assert "LQConv" in written["1_plan.txt"] and "Contraction" in written["1_plan.txt"]
    assert "call_tir" in written["2_relax_x86-avx2.py"]
    assert "def run(" in written["3_driver_x86-avx2.py"]
    assert "vpopcntd" in written["4_x86-avx512-vpopcntdq.s"]


def test_variants_of_equal_content_share_members(tmp_path: Path) -> None:
    """Weights for VPDPBUSD are the same for all AVX-512 processors with VNNI."""
    path, artifact = tmp_path / "model.onnx", tmp_path / "model.tar"
    onnx.save(MODELS["integer chain"](np.random.default_rng(7)), path)
    build(path, target="x86", output=artifact)
    content = read_artifact(artifact)
    variants = {variant["name"]: variant for variant in content.manifest["variants"]}
    shared = variants["x86-avx512-vnni"]["params"]
    assert variants["x86-avx512-vpopcntdq"]["params"] == shared != variants["x86-amx"]["params"]
    assert len(set(content.members.values())) == len(content.members)


def test_strict_refuses_to_fall_back(tmp_path: Path) -> None:
    path, artifact = tmp_path / "model.onnx", tmp_path / "model.tar"
    onnx.save(conv_model(np.random.default_rng(4), act_bits=None), path)
    message = (
        r"^node '\w+' \(LQConv\): found no exact kernel \(weight-only: 2-bit weights on float32 input\), expected one "
        r"because of --strict; quantize its input or build without --strict$"
    )
    with pytest.raises(BuildError, match=message):
        build(path, target="x86-avx2", output=artifact, strict=True)
    assert not artifact.exists()
    report = build(path, target=RUNNABLE[0], output=artifact)
    assert [layer["kernel"] for layer in report.layers] == ["packed"]


def test_strict_accepts_float_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(Builder(np.random.default_rng(5), (3, 4, 4)).conv_float(4).build(), path)
    report = build(path, target=RUNNABLE[0], output=tmp_path / "model.tar", strict=True)
    assert [layer["reason"] for layer in report.layers] == ["weights are float32"]


def test_a_folder_for_ir_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    path, file = tmp_path / "model.onnx", tmp_path / "file"
    onnx.save(conv_model(np.random.default_rng(6)), path)
    file.touch()
    with pytest.raises(BuildError, match=r"^folder '.*/file': File exists; give --dump-ir a folder that can be"):
        build(path, target="x86-avx2", output=tmp_path / "model.tar", dump_ir=file)


def test_an_unknown_target_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"^target 'vax': unknown"):
        build(tmp_path / "none.onnx", target="vax", output=tmp_path / "model.tar")
