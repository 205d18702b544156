"""Finding what a user of a GPU would run instead, and saying why what is not there is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx

from lqcompile.gpu_bench import onnxruntime_peer, tensorrt_peers, torch_peers
from lqcompile.gpu_bench.peer import Absent, Array, GpuPeer

Opener = Callable[[str, onnx.ModelProto, Mapping[str, Array], Mapping[str, Array]], GpuPeer]

PEERS: Mapping[str, Opener] = {
    torch_peers.FP16: torch_peers.open_torch,
    torch_peers.FP16_COMPILED: torch_peers.open_torch,
    torch_peers.INT8: torch_peers.open_torch,
    torch_peers.INT8_COMPILED: torch_peers.open_torch,
    tensorrt_peers.FP16: tensorrt_peers.open_tensorrt,
    tensorrt_peers.INT8: tensorrt_peers.open_tensorrt,
    onnxruntime_peer.FP16: onnxruntime_peer.open_onnxruntime,
}
"""What ``bench --against`` takes on a GPU, and what opens it."""


def open_peers(
    names: Sequence[str],
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    calibration: Mapping[str, Array],
    progress: Callable[[str], None],
) -> tuple[list[GpuPeer], dict[str, str]]:
    """Load networks to measure against.

    Args:
        names: of `PEERS`.
        model: the float twin.
        inputs: float32[N, ...] to run on, in the order of the model's inputs.
        calibration: likewise, what int8 ranges are taken from.
        progress: called with what is being opened.

    Returns:
        those that run here, and the reason for each that does not.
    """
    peers, absent = [], {}
    for name in names:
        progress(f"opening {name}")
        try:
            peers.append(PEERS[name](name, model, inputs, calibration))
        except Absent as reason:
            absent[name] = str(reason)
        except Exception as error:  # noqa: BLE001 - compilers and libraries of others raise all kinds; it is reported
            first = (str(error).strip().splitlines() or ["without a message"])[0]
            absent[name] = f"fails on this network: {type(error).__name__}: {first:.300}"
    return peers, absent
