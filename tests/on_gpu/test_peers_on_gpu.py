"""What `bench` and benchmarks/gpu.py use, on a real GPU: peers, peaks and products."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from models import Builder

from lqcompile.cuda.capability import runs_here
from lqcompile.cuda.driver import Gpu
from lqcompile.cuda.model import CudaModel
from lqcompile.float_twin import derive_float_twin
from lqcompile.gpu_bench.opening import PEERS, open_peers
from lqcompile.runtime import load
from lqcompile.target import find

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from gpu_series import gemm
from gpu_series.peak_kernels import PRODUCTS
from gpu_series.peaks import measure_peaks


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_computes_the_network(gpu: Gpu, name: str) -> None:
    rng = np.random.default_rng(5)
    builder = Builder(rng, (6, 8, 8)).quantize(2).conv(40, bits=2).batch_norm().relu().max_pool()
    twin = derive_float_twin(builder.quantize(2).flatten().linear(5, bits=1).build())
    feeds = {"x": rng.normal(size=(32, 6, 8, 8)).astype(np.float32)}
    peers, absent = open_peers([name], twin, feeds, feeds, lambda text: None)
    if absent:
        pytest.skip(absent[name])
    session = onnxruntime.InferenceSession(twin.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)[0]
    peers[0].run()
    np.testing.assert_allclose(peers[0].outputs()[0], expected, atol=0.05 * np.abs(expected).max())


def test_peaks_stand_in_their_order(gpu: Gpu) -> None:
    """Narrow products are no slower than wide ones on GPUs before Blackwell, and the host's clock is not off by far."""
    peaks = measure_peaks(gpu, 3, lambda text: None)
    assert all(peak["best"] >= peak["median"] > 0 for peak in peaks.values())
    if gpu.capability < (10, 0):
        rates = {
            kind: max(peaks[p.name]["best"] for p in PRODUCTS if p.name.startswith(kind) and p.name in peaks)
            for kind in ("b1_", "int8_", "fp16_")
        }
        assert rates["b1_"] > rates["int8_"] > rates["fp16_"]


@pytest.mark.parametrize("bits", gemm.BITS)
def test_products_equal_numpy(gpu: Gpu, bits: tuple[int, int], tmp_path: Path) -> None:
    target = next(name for name in ("cuda-h200", "jetson-orin", "cuda-a100", "cuda") if runs_here(find(name).features))
    path = gemm.gemm_artifact(512, bits, target, tmp_path)
    model = load(path)
    assert isinstance(model, CudaModel)
    assert gemm.wrong_codes(model, gemm.gemm_model(512, *bits, seed=0)) == 0
    assert gemm.timer(model, 10)() > 0
