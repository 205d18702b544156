"""What runs on a board: importing this module offers its functions to a host, over TVM's RPC server in this process.

Each is the global function ``lqcompile.board.NAME`` from one message to another (`lqcompile.rpc.message`), so that
nothing but bytes travels; the work is done by `lqcompile.runtime`, as everywhere else. A session of TVM's server is a
process of its own, forked when a host connects: what is loaded here belongs to that session and goes with it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import tvm_ffi

from lqcompile import cpu
from lqcompile.conditions import conditions, emulator
from lqcompile.errors import DeviceError, LQCompileError
from lqcompile.kernels import Job, Kernels
from lqcompile.profiling.machine import measure_machine as machine_of
from lqcompile.profiling.passes import time_passes as passes_of
from lqcompile.rpc.message import Array, pack, unpack
from lqcompile.runtime import CompiledModel
from lqcompile.runtime import load as load_artifact
from lqcompile.timing import Stopwatch, spread

PREFIX = "lqcompile.board."

PROTOCOL = 3
"""Raised when a message changes: host and board must agree."""

FUNCTIONS: dict[str, Callable[[bytes], bytes]] = {}
"""Name to the function that is offered."""

Arrays = dict[str, Array]
Answer = tuple[dict[str, Any], Arrays]

_PACKAGES = ("lqcompile", "apache-tvm", "apache-tvm-ffi", "numpy", "onnxruntime")


class _Session:
    """What the host has made in this session, by the names that it gave."""

    def __init__(self) -> None:
        self.models: dict[str, CompiledModel] = {}
        self.peers: dict[str, Any] = {}
        self.stopwatch: Stopwatch | None = None
        self.kernels: Kernels | None = None


_session = _Session()


def _offer(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Offer a function of (arrays, **values) under its name."""
    name = function.__name__

    def answer(message: bytes) -> bytes:
        values, arrays = unpack(bytes(message))
        watchdog = threading.Timer(values.pop("limit_s"), _give_up, [name])
        watchdog.daemon = True
        watchdog.start()
        try:
            return pack(*function(arrays, **values))
        except LQCompileError as error:
            return pack({"error": str(error), "kind": type(error).__name__}, {})
        finally:
            watchdog.cancel()

    FUNCTIONS[name] = answer
    tvm_ffi.register_global_func(PREFIX + name, answer, override=True)
    return function


def _give_up(name: str) -> None:
    """End the session, so that the board is free again; by exit code 0, which TVM's server takes for a normal end."""
    sys.stderr.write(f"lqcompile serve: '{name}' took longer than the host waits; session ended\n")
    sys.stderr.flush()
    os._exit(0)


@_offer
def info(_arrays: Arrays) -> Answer:
    """What this machine is, and its state now."""
    versions = {name: _version(name) for name in _PACKAGES}
    machine = cpu.machine()
    facts = {
        "protocol": PROTOCOL,
        "machine": machine,
        "system": cpu.system(),
        "cpu": cpu.cpu_name(),
        "cpu_model": cpu.cpu_model(),
        "features": sorted(cpu.cpu_features()),
        "cores": cpu.cores(),
        "emulator": emulator(machine),
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": {name: version for name, version in versions.items() if version is not None},
        **conditions(),
    }
    return facts, {}


@_offer
def write(arrays: Arrays, *, file: str, offset: int) -> Answer:
    """Write the bytes of ``data`` into a file at `offset`; the file ends there."""
    path = _path(file)
    path.touch()
    with path.open("r+b") as target:
        target.truncate(offset)
        target.seek(offset)
        target.write(arrays["data"].tobytes())
    return {}, {}


@_offer
def digest(_arrays: Arrays, *, file: str) -> Answer:
    """Size and SHA-256 of a file, to be compared with what was sent."""
    data = _path(file).read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}, {}


@_offer
def load(_arrays: Arrays, *, model: str, file: str, threads: int | None) -> Answer:
    """Load an artifact under the name `model`."""
    loaded = load_artifact(_path(file), threads=threads)
    _session.models[model] = loaded
    return {"variant": loaded.variant["name"]}, {}


@_offer
def run(arrays: Arrays, *, model: str) -> Answer:
    """Run a model; ``seconds`` is None under emulation, where a time means nothing."""
    start = time.perf_counter()
    outputs = _session.models[model].run(arrays)
    seconds = time.perf_counter() - start
    return {"seconds": None if emulator(cpu.machine()) else seconds}, outputs


@_offer
def run_region(arrays: Arrays, *, model: str, region: str) -> Answer:
    """Run one region of a model on given values."""
    return {}, _session.models[model].run_region(region, arrays)


@_offer
def run_sums(arrays: Arrays, *, model: str, region: str) -> Answer:
    """The integers of one region of a model."""
    return {}, {"sums": _session.models[model].run_sums(region, arrays)}


@_offer
def open_peer(_arrays: Arrays, *, peer: str, file: str, threads: int) -> Answer:
    """Load an ONNX file in ONNX Runtime under the name `peer`.

    Raises:
        DeviceError: ONNX Runtime is not installed here.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise DeviceError("board: found no onnxruntime, expected it as a peer; pip install onnxruntime there")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(_path(file)), options, providers=["CPUExecutionProvider"])
    _session.peers[peer] = session
    return {}, {}


@_offer
def prepare(arrays: Arrays) -> Answer:
    """Get all loaded models and peers ready to be timed on the arrays: they run until caches and clocks are warm.

    Raises:
        DeviceError: this is an emulator.
    """
    _refuse_emulator()
    runners: dict[str, Callable[[], object]] = {}
    for name, model in _session.models.items():
        # A model takes its inputs by name; others may call them otherwise, in the same order.
        feeds = dict(zip([port.name for port in model.inputs], arrays.values(), strict=True))
        runners[name] = functools.partial(model.run, feeds)
    for name, peer in _session.peers.items():
        feeds = dict(zip([value.name for value in peer.get_inputs()], arrays.values(), strict=True))
        runners[name] = functools.partial(peer.run, None, feeds)
    _session.stopwatch = Stopwatch(runners)
    return {}, {}


@_offer
def measure(_arrays: Arrays, *, seconds: float) -> Answer:
    """Time what `prepare` made ready, in rounds for about so many seconds.

    Returns:
        name to the readings in seconds of one call, in order, and the conditions after them.
    """
    stopwatch = _session.stopwatch
    if stopwatch is None:
        raise DeviceError("board: found nothing to time, expected 'prepare' before 'measure'")
    rounds = [stopwatch.round()]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rounds.append(stopwatch.round())
    readings = {name: [entry[name] for entry in rounds] for name in rounds[0]}
    return {"readings": readings, "conditions": conditions()}, {}


@_offer
def time_layer(arrays: Arrays, *, model: str, layer: str, rounds: int) -> Answer:
    """Time one region of a model alone, on what the regions before it left: ask for them in order.

    Raises:
        DeviceError: this is an emulator.
    """
    _refuse_emulator()
    stopwatch = Stopwatch({layer: _session.models[model].layer_runners(arrays)[layer]})
    return {"median_ms": spread([stopwatch.round()[layer] for _ in range(rounds)]).median_ms}, {}


@_offer
def measure_machine(_arrays: Arrays, *, file: str, threads: int, emulated: bool) -> Answer:
    """Clock, caches and bandwidths of this machine, by the probes in a library that was uploaded.

    Raises:
        DeviceError: this is an emulator, and `emulated` times are not wanted.
    """
    if not emulated:
        _refuse_emulator()
    return {"machine": machine_of(_path(file), threads).to_json()}, {}


@_offer
def time_passes(arrays: Arrays, *, model: str, seconds: float, most: int, emulated: bool) -> Answer:
    """Time passes over a model, whole and region by region (`lqcompile.profiling.passes`).

    Raises:
        DeviceError: this is an emulator, and `emulated` times are not wanted.
    """
    if not emulated:
        _refuse_emulator()
    return {"readings": passes_of(_session.models[model], arrays, seconds=seconds, most=most).to_json()}, {}


@_offer
def open_kernels(_arrays: Arrays, *, file: str, beside: str | None) -> Answer:
    """Load the candidate kernels in a file, and those in another one that are timed beside them.

    Each file is a message with a library and the memory that it works on.
    """
    _session.kernels = Kernels(replace(_job(file), beside=None if beside is None else _job(beside)))
    return {}, {}


@_offer
def run_kernel(_arrays: Arrays, *, step: int, port: int) -> Answer:
    """Run a candidate kernel; gives what it left in a port."""
    return {}, {"port": _kernels().run(step, port)}


@_offer
def time_kernels(_arrays: Arrays, *, steps: list[int], rounds: int, beside: list[int]) -> Answer:
    """Seconds of one call of each candidate kernel, and of those beside them, in each of the rounds.

    Raises:
        DeviceError: this is an emulator.
    """
    _refuse_emulator()
    return {"seconds": _kernels().times(steps, rounds, beside)}, {}


def _job(file: str) -> Job:
    values, arrays = unpack(_path(file).read_bytes())
    return Job(
        library=arrays.pop("library").tobytes(),
        parameters=arrays.pop("parameters"),
        ports=tuple((dtype, size) for dtype, size in values["ports"]),
        contents={int(port): content for port, content in arrays.items()},
        arena_bytes=values["arena_bytes"],
    )


def _kernels() -> Kernels:
    if _session.kernels is None:
        raise DeviceError("board: found no kernels, expected 'open_kernels' before")
    return _session.kernels


def _refuse_emulator() -> None:
    found = emulator(cpu.machine())
    if found is not None:
        raise DeviceError(
            f"board: found {found} emulation, expected hardware, for times under emulation mean nothing; "
            "use 'lqcompile verify' here, and 'lqcompile bench' on a real board"
        )


def _path(file: str) -> Path:
    """A file in the folder of this session, which TVM's server makes and removes."""
    return Path(tvm_ffi.get_global_func("tvm.rpc.server.workpath")(file))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
