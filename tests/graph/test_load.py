from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from models import Builder, classifier_model, conv_model, residual_model
from onnx import external_data_helper, helper

from lqcompile.errors import LQCompileError, ModelError
from lqcompile.graph.check import load_checked
from lqcompile.graph.load import load, parse, prepare


@pytest.fixture
def model() -> onnx.ModelProto:
    return conv_model(np.random.default_rng(1), channels=(4, 6), size=(5, 5), relu=True)


@pytest.fixture
def file(model: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def external(model: onnx.ModelProto, tmp_path: Path) -> Path:
    """A model whose constants lie in weights.bin next to it."""
    path = tmp_path / "folder" / "model.onnx"
    path.parent.mkdir()
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def redirect(path: Path, **entries: str) -> None:
    """Change the external data entries of every tensor of a file."""
    model = onnx.load(path, load_external_data=False)
    tensors = [tensor for tensor in model.graph.initializer if external_data_helper.uses_external_data(tensor)]
    assert tensors
    for tensor in tensors:
        for entry in tensor.external_data:
            entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("batch", ["N", 3])
def test_load_infers_every_shape(tmp_path, batch):
    path = tmp_path / "model.onnx"
    model = classifier_model(np.random.default_rng(2), batch=batch)
    onnx.save(model, path)
    loaded = load(path)
    assert isinstance(loaded, onnx_ir.Model)
    for node in loaded.graph:
        for value in node.outputs:
            assert value.dtype is not None
            assert value.shape is not None
            assert all(isinstance(dim, int) for dim in value.shape[1:])
    (y,) = loaded.graph.outputs
    assert y.shape is not None
    assert [str(dim) for dim in y.shape] == [str(batch), "10"]


def test_prepare_leaves_its_argument_alone(model):
    before = model.SerializeToString(deterministic=True)
    prepare(model)
    assert model.SerializeToString(deterministic=True) == before


def test_initializers_among_the_inputs_are_constants(model):
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    assert [value.name for value in prepare(model).graph.inputs] == ["x"]


def test_external_data_is_read(external, model):
    assert (external.parent / "weights.bin").is_file()
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in parse(external).graph.initializer}
    assert stored.keys() == found.keys()
    for name, array in stored.items():
        np.testing.assert_array_equal(found[name], array)
    load(external)


# ---------------------------------------------------------------------- files that are no models


def test_missing_file(tmp_path):
    with pytest.raises(
        ModelError, match=r"none\.onnx: cannot read the file \(No such file or directory\); expected an"
    ):
        load(tmp_path / "none.onnx")


def test_folder(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read the file \(Is a directory\); expected an ONNX file$"):
        load(tmp_path)


def test_empty_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.touch()
    with pytest.raises(ModelError, match=r"model\.onnx: found an empty file, expected an ONNX model; export the model"):
        load(path)


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\x03\x04" + b"x" * 99, b"<html>hello</html>"]
)
def test_another_format(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(
        ModelError, match=r"model\.onnx: found something else, expected an ONNX model; export the model"
    ):
        load(path)


def test_truncated_file(file):
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        ModelError, match=r"model\.onnx: found a truncated or damaged ONNX file, expected an ONNX model"
    ):
        load(file)


def test_file_without_a_graph(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.ModelProto(ir_version=10, producer_name="test").SerializeToString())
    with pytest.raises(
        ModelError, match=r"model\.onnx: found no graph in it, expected an ONNX model; export the model"
    ):
        load(path)


def test_a_cut_at_any_byte_is_an_error_or_the_whole_graph(file):
    """Fields that follow graph, opsets and functions carry nothing."""
    content = file.read_bytes()
    rng = np.random.default_rng(3)
    for cut in sorted({*range(1, 60), *(int(c) for c in rng.integers(60, len(content), 200))}):
        file.write_bytes(content[:cut])
        with pytest.raises(LQCompileError) as caught:
            load(file)
        assert "\n" not in str(caught.value)


def test_a_flipped_byte_never_gives_another_exception(file):
    content = bytearray(file.read_bytes())
    rng = np.random.default_rng(4)
    refused = 0
    for position in rng.integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        message = ""
        try:
            load_checked(file)
        except LQCompileError as e:
            message = str(e)
            refused += 1
        assert "\n" not in message
    assert refused > 50


# ---------------------------------------------------------------------- external data


def test_external_data_missing(external):
    (external.parent / "weights.bin").unlink()
    with pytest.raises(
        ModelError, match=r"tensor 'thresholds_0': found no file 'weights\.bin' with its data, expected it next"
    ):
        load(external)


@pytest.mark.parametrize("where", ["../weights.bin", "/etc/passwd", "", "sub/../../weights.bin"])
def test_external_data_outside_the_folder(external, where):
    (external.parent.parent / "weights.bin").write_bytes((external.parent / "weights.bin").read_bytes())
    redirect(external, location=where)
    with pytest.raises(
        ModelError, match=rf"found its data at '{where}', expected a file below the folder of the model"
    ):
        load(external)


def test_external_data_behind_a_link(external):
    outside = external.parent.parent / "outside.bin"
    (external.parent / "weights.bin").rename(outside)
    (external.parent / "weights.bin").symlink_to(outside)
    with pytest.raises(
        ModelError, match=r"found its data at 'weights\.bin', expected a file below the folder of the model"
    ):
        load(external)


def test_external_data_truncated(external):
    data = external.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:10])
    with pytest.raises(
        ModelError, match=r"tensor 'thresholds_0': cannot read its data from 'weights\.bin' \(.*\); copy it"
    ):
        load(external)


@pytest.mark.parametrize("entries", [{"offset": "many"}, {"length": "-4"}, {"offset": "999999999"}])
def test_external_data_with_wild_entries(external, entries):
    redirect(external, **entries)
    with pytest.raises(
        ModelError, match=r"tensor 'thresholds_0': cannot read its data from 'weights\.bin' \(.*\); copy it"
    ):
        load(external)


def test_data_that_does_not_fill_its_shape(file, model):
    planes = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("planes"))
    planes.dims[0] += 1
    onnx.save(model, file)
    with pytest.raises(
        ModelError, match=r"tensor 'planes_\d+': found data that does not fill its shape \[7, 2, 5\] \(.*\);"
    ):
        load(file)


# ---------------------------------------------------------------------- versions and graphs


@pytest.mark.parametrize("version", [2, 14, 99])
def test_ir_version(model, version):
    model.ir_version = version
    with pytest.raises(
        ModelError, match=rf"^model: found IR version {version}, expected 4\.\.13; export the model again"
    ):
        prepare(model)


@pytest.mark.parametrize("opset", [12, 27, 99])
def test_opset(model, opset):
    model.opset_import[0].version = opset
    with pytest.raises(
        ModelError, match=rf"^model: found opset {opset}, expected 13\.\.26; export the model again with"
    ):
        prepare(model)


def test_no_opset(model):
    del model.opset_import[0]
    with pytest.raises(ModelError, match=r"^model: found no opset import of the standard domain, expected one; export"):
        prepare(model)


def test_domain_version(model):
    model.opset_import[1].version = 2
    with pytest.raises(
        ModelError, match=r"^model: found version 2 of the domain lqcompile, expected version 1; .* install"
    ):
        prepare(model)


def test_domain_without_a_version(model):
    del model.opset_import[1]
    with pytest.raises(
        ModelError, match=r"^model: found no version of the domain lqcompile, expected version 1; export"
    ):
        prepare(model)


def test_error_names_the_file(file, model):
    model.ir_version = 99
    onnx.save(model, file)
    with pytest.raises(ModelError, match=r"model\.onnx: found IR version 99"):
        load(file)


def test_missing_attribute(model):
    conv = next(node for node in model.graph.node if node.op_type == "LQConv")
    kept = [attribute for attribute in conv.attribute if attribute.name != "strides"]
    del conv.attribute[:]
    conv.attribute.extend(kept)
    with pytest.raises(ModelError, match=r"invalid graph \(Required attribute 'strides' is missing.*Name: lqconv_1"):
        prepare(model)


def test_attribute_of_another_type(model):
    conv = next(node for node in model.graph.node if node.op_type == "LQConv")
    (group,) = [attribute for attribute in conv.attribute if attribute.name == "group"]
    group.CopyFrom(helper.make_attribute("group", [1, 1]))
    with pytest.raises(ModelError, match=r"invalid graph \(Mismatched attribute type in 'lqconv_1 : group'.*again$"):
        prepare(model)


def test_missing_input(model):
    conv = next(node for node in model.graph.node if node.op_type == "LQConv")
    del conv.input[-1]
    with pytest.raises(
        ModelError, match=r"invalid graph \(Node\(lqconv_1\) with schema\(lqcompile::LQConv:1\) has input size"
    ):
        prepare(model)


def test_undefined_value(model):
    model.graph.node[1].input[0] = "nowhere"
    with pytest.raises(ModelError, match=r"invalid graph \(.*'nowhere' of node.*; export the model again$"):
        prepare(model)


def test_declared_shape_that_is_wrong(model):
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 99
    with pytest.raises(
        ModelError, match=r"invalid graph \(.*\(op_type:Relu, node name: relu_2\).*; export the model again$"
    ):
        prepare(model)


def test_unknown_element_type(model):
    model.graph.output[0].type.tensor_type.elem_type = 65
    with pytest.raises(ModelError, match=r"^model: found an invalid graph \(.*65.*\); export the model again$"):
        prepare(model)


def test_undefined_name_that_is_not_utf8(file):
    file.write_bytes(file.read_bytes().replace(b"v_lqconv_1", b"v_lqconv\xff1", 1))
    with pytest.raises(ModelError, match=r"model\.onnx: found an invalid graph \(.*\); export the model again$"):
        load(file)


def test_model_without_low_bit_nodes():
    model = Builder(np.random.default_rng(0), (3, 8, 8)).conv_float(4).relu().build()
    assert [entry.domain for entry in model.opset_import] == [""]
    assert [node.op_type for node in prepare(model).graph] == ["Conv", "Relu"]


def test_old_ir_without_functions():
    model = Builder(np.random.default_rng(0), (3, 8, 8)).conv_float(4).build()
    model.ir_version = 4
    assert len(list(prepare(model).graph)) == 1


def test_residual_model_loads():
    loaded = prepare(residual_model(np.random.default_rng(0)))
    assert sum(node.op_type == "LQConv" for node in loaded.graph) == 5
