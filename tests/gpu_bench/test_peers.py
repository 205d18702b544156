"""Peers on a GPU, with a torch.cuda, a tensorrt and a CUDA provider that are made up."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from models import Builder

torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parent))

import fake_cuda  # noqa: E402

from lqcompile.float_twin import derive_float_twin  # noqa: E402
from lqcompile.gpu_bench import opening, torch_peers  # noqa: E402
from lqcompile.gpu_bench.int8 import Int8Layer  # noqa: E402
from lqcompile.gpu_bench.opening import PEERS, open_peers  # noqa: E402


@pytest.fixture(scope="module")
def twin() -> onnx.ModelProto:
    rng = np.random.default_rng(5)
    builder = Builder(rng, (6, 8, 8)).quantize(2).conv(8, bits=2).batch_norm().relu().max_pool()
    return derive_float_twin(builder.quantize(2).flatten().linear(5, bits=1).build())


X = {"x": np.random.default_rng(6).normal(size=(4, 6, 8, 8)).astype(np.float32)}


def reference(twin: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(twin.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, X)[0]


def opened(name: str, twin: onnx.ModelProto) -> tuple[list, dict[str, str]]:
    said: list[str] = []
    result = open_peers([name], twin, X, X, said.append)
    assert said == [f"opening {name}"]
    return result


@pytest.mark.parametrize(
    "name", [torch_peers.FP16, torch_peers.FP16_COMPILED, torch_peers.INT8, torch_peers.INT8_COMPILED]
)
def test_torch_runs_the_network_as_one_graph(name: str, twin: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_cuda.install(monkeypatch)
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    (peer,), absent = opened(name, twin)
    assert not absent and len(compiled) == name.endswith("-compiled")
    assert fake.calls == ["wait_stream", "wait_stream", "synchronize", "capture", "captured"]
    fake.calls.clear()
    peer.run()
    assert fake.calls == ["replay", "synchronize"]
    expected = reference(twin)
    (found,) = peer.outputs()
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
    for layer in (layer for module in compiled for layer in module.modules() if isinstance(layer, Int8Layer)):
        assert (layer.weight.dtype, layer.scale.dtype) == (torch.int8, torch.float32), "small scales are 0 in float16"
    words = "int8 by torch._int_mm (cuBLASLt; im2col) in 2 layers, float16 in 0 and between" if "int8" in name else ""
    assert (words or "float16") in peer.what and ("torch.compile" in peer.what) == name.endswith("-compiled")


def test_torch_that_fails_is_listed_with_the_reason(twin: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda.install(monkeypatch)

    def fail(_: Any) -> None:
        raise RuntimeError("no C compiler\nand much more")

    monkeypatch.setattr(torch, "compile", fail)
    peers, absent = opened(torch_peers.FP16_COMPILED, twin)
    assert not peers
    assert absent == {"torch-fp16-compiled": "fails on this network: RuntimeError: no C compiler"}


def test_torch_without_cuda(twin: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    reason = f"found torch {torch.__version__} without CUDA, expected a build with CUDA; install one"
    assert opened(torch_peers.INT8, twin) == ([], {"torch-int8": reason})


def test_torch_that_sees_no_gpu(twin: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "11.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reason = f"found torch {torch.__version__} for CUDA 11.8, which sees no GPU that it can use; install one that fits "
    assert opened(torch_peers.FP16, twin) == ([], {"torch-fp16": f"{reason}the driver"})


def test_no_torch(twin: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    reason = "found no torch, expected a build with CUDA; install one"
    assert opened(torch_peers.FP16, twin) == ([], {"torch-fp16": reason})


def test_onnxruntime_without_cuda(twin: onnx.ModelProto) -> None:
    reason = f"found onnxruntime {onnxruntime.__version__} without CUDA, expected onnxruntime-gpu; install it"
    assert opened("onnxruntime-cuda-fp16", twin) == ([], {"onnxruntime-cuda-fp16": reason})


def test_onnxruntime_runs_in_half_on_arrays_of_the_gpu(twin: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its CUDA provider and memory are those of the CPU here; all else is ONNX Runtime itself."""
    session, value, asked = onnxruntime.InferenceSession, onnxruntime.OrtValue, []

    def open_session(model: bytes, options: Any, providers: list) -> Any:
        asked.append((providers, options.get_session_config_entry("session.disable_cpu_ep_fallback")))
        return session(model, providers=["CPUExecutionProvider"])

    class Value:
        @staticmethod
        def ortvalue_from_numpy(array: np.ndarray, device: str, number: int) -> Any:
            assert device == "cuda"
            return value.ortvalue_from_numpy(array)

        @staticmethod
        def ortvalue_from_shape_and_type(shape: tuple, kind: Any, device: str, number: int) -> Any:
            assert device == "cuda"
            return value.ortvalue_from_shape_and_type(shape, kind)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    monkeypatch.setattr(onnxruntime, "OrtValue", Value)
    (peer,), absent = opened("onnxruntime-cuda-fp16", twin)
    monkeypatch.undo()
    assert not absent
    assert asked == [([("CUDAExecutionProvider", {"enable_cuda_graph": "1"})], "1")]
    peer.run()
    expected = reference(twin)
    np.testing.assert_allclose(peer.outputs()[0], expected, atol=0.02 * np.abs(expected).max())


class FakeTensorRT(types.ModuleType):
    """TensorRT's interface as far as it is used; its engines are ONNX Runtime on the CPU."""

    def __init__(self, version: str, refuses: str = "") -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.addresses: dict[str, int] = {}
        self.files: list[bytes] = []
        fake = self

        class Logger:
            ERROR = 1

            def __init__(self, level: int) -> None: ...

        class Network: ...

        class Profile:
            def set_shape(self, name: str, least: tuple, usual: tuple, most: tuple) -> None:
                assert least == usual == most == (4, 6, 8, 8)

        class Config:
            def add_optimization_profile(self, profile: Profile) -> None: ...

        class Builder:
            def __init__(self, logger: Logger) -> None: ...

            def create_network(self, flags: int) -> Network:
                assert flags == (2 if version.startswith("10") else 0)
                return Network()

            def create_builder_config(self) -> Config:
                return Config()

            def create_optimization_profile(self) -> Profile:
                return Profile()

            def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
                return None if refuses == "build" else fake.files[-1]

        class OnnxParser:
            num_errors = 1

            def __init__(self, network: Network, logger: Logger) -> None: ...

            def parse(self, file: bytes) -> bool:
                fake.files.append(file)
                return refuses != "parse"

            def get_error(self, index: int) -> Any:
                return types.SimpleNamespace(desc=lambda: "an operator\nis odd")

        class Runtime:
            def __init__(self, logger: Logger) -> None: ...

            def deserialize_cuda_engine(self, plan: bytes) -> Any:
                return types.SimpleNamespace(create_execution_context=Context)

        class Context:
            def set_input_shape(self, name: str, shape: tuple) -> None:
                assert shape == (4, 6, 8, 8)

            def set_tensor_address(self, name: str, address: int) -> None:
                fake.addresses[name] = address

            def get_tensor_shape(self, name: str) -> tuple:
                return (4, 5)

            def execute_async_v3(self, stream: int) -> bool:
                return stream == 7 and refuses != "run"

        self.Logger, self.Builder, self.OnnxParser, self.Runtime = Logger, Builder, OnnxParser, Runtime
        names = {"STRONGLY_TYPED": 1} if version.startswith("10") else {}
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(**names)


@pytest.mark.parametrize("version", ["10.9.0", "11.4.1"])
@pytest.mark.parametrize("name", ["tensorrt-fp16", "tensorrt-int8"])
def test_tensorrt_gets_a_typed_file_and_arrays(
    name: str, version: str, twin: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda.install(monkeypatch)
    fake = FakeTensorRT(version)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    (peer,), absent = opened(name, twin)
    assert not absent and peer.what.startswith(f"tensorrt {version}, ")
    model = onnx.load_from_string(fake.files[-1])
    assert fake.addresses.keys() == {value.name for value in (*model.graph.input, *model.graph.output)}
    kind = model.graph.input[0].type.tensor_type.elem_type
    assert kind == (onnx.TensorProto.FLOAT16 if name == "tensorrt-fp16" else onnx.TensorProto.FLOAT)
    zeros = [
        tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and not tensor.dims
    ]
    assert bool(zeros) == (name == "tensorrt-int8")
    assert all(onnx.numpy_helper.to_array(zero) == 0 for zero in zeros), "symmetric"
    peer.run()


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (None, "found no tensorrt; pip install tensorrt"),
        (FakeTensorRT("8.6.1"), "found tensorrt 8.6.1, expected 10 or later; update it"),
        (FakeTensorRT("11.0.0", "parse"), "tensorrt 11.0.0 does not read the network: an operator is odd"),
        (FakeTensorRT("11.0.0", "build"), "tensorrt 11.0.0 does not build the network"),
        (FakeTensorRT("11.0.0", "run"), "tensorrt 11.0.0 fails as it runs the network"),
    ],
    ids=["none", "old", "parse", "build", "run"],
)
def test_tensorrt_that_does_not_do(
    fake: FakeTensorRT | None, reason: str, twin: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    assert opened("tensorrt-fp16", twin) == ([], {"tensorrt-fp16": reason})


def test_every_peer_is_opened_or_listed(twin: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    peers, absent = open_peers(list(opening.PEERS), twin, X, X, lambda text: None)
    assert not peers and absent.keys() == PEERS.keys()
