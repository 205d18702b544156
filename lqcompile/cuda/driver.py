"""NVIDIA's driver as a Python object: memory, modules, launches and graphs on one GPU.

The functions are those of the CUDA driver API (https://docs.nvidia.com/cuda/cuda-driver-api), which every installation
of the driver has; neither the CUDA toolkit nor its runtime is needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from lqcompile.errors import DeviceError

LIBRARY = "libcuda.so.1"

OLDEST_DRIVER = 13000
"""What `cuDriverGetVersion` gives for CUDA 13.0, with which device code is compiled (R580)."""

OUT_OF_MEMORY, NO_DEVICE, NO_BINARY, NEWER_PTX = 2, 100, 209, 222
"""CUresult values that have messages of their own."""

MULTIPROCESSORS, MAJOR, MINOR = 16, 75, 76
"""CUdevice_attribute: how many multiprocessors there are; compute capability."""

THREAD_LOCAL_CAPTURE = 1
"""CUstreamCaptureMode."""

NON_BLOCKING = 1
"""CUstream_flags: a stream that does not wait for the work of others in the process, such as torch's."""

Pointer = int
Handle = ctypes.c_void_p


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One kernel launch: function, blocks (x, y), threads (x, y), pointers and the number of samples."""

    function: Handle
    blocks: tuple[int, int]
    threads: tuple[int, int]
    pointers: tuple[Pointer, ...]
    samples: int


class Gpu:
    """The first GPU that the driver shows (``CUDA_VISIBLE_DEVICES`` chooses another), with a stream of its own.

    Asking what it is takes no memory of it; `enter` comes before everything else.

    Raises:
        DeviceError: there is no driver, it is too old, or it shows no GPU.
    """

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise DeviceError(
                f"CUDA: found no NVIDIA driver ({LIBRARY}), expected one for CUDA 13 or later; install it, or run on a "
                "machine with a GPU"
            ) from error
        status = self._cuda.cuInit(0)
        if status == NO_DEVICE:
            raise DeviceError(
                "CUDA: the driver found no GPU, expected one; look at 'nvidia-smi' and CUDA_VISIBLE_DEVICES"
            )
        if status:
            raise DeviceError(
                f"CUDA: the driver does not start: found error {status} ({self._meaning(status)}), expected none; look "
                "at 'nvidia-smi', and restart the machine after an update of the driver"
            )
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        if version.value < OLDEST_DRIVER:
            raise DeviceError(
                f"CUDA: found a driver for CUDA {_version(version.value)}, expected {_version(OLDEST_DRIVER)} or "
                "later; update the NVIDIA driver"
            )
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._device)
        self.name = name.value.decode(errors="replace")
        self.driver = _version(version.value)
        self.multiprocessors = self.attribute(MULTIPROCESSORS)
        self.capability = (self.attribute(MAJOR), self.attribute(MINOR))
        self._context, self._stream = Handle(), Handle()

    def enter(self) -> None:
        """Makes this GPU the one of the calling thread."""
        if not self._context:
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)
        if not self._stream:
            self._call("cuStreamCreate", ctypes.byref(self._stream), NON_BLOCKING)

    def free_bytes(self) -> int:
        """Memory that is not in use."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> Pointer:
        """Memory of `size` bytes.

        Raises:
            DeviceError: there is not enough.
        """
        pointer = ctypes.c_uint64()
        status = self._cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))  # it refuses none
        if status == OUT_OF_MEMORY:
            raise DeviceError(
                f"GPU {self.name}: found no {size / 1e6:.1f} MB of free memory, expected them for the model; close "
                "other programs, or run fewer samples at a time"
            )
        self._check(status, "cuMemAlloc")
        return pointer.value

    def free(self, pointer: Pointer) -> None:
        """Gives memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def write(self, pointer: Pointer, array: npt.NDArray[Any]) -> None:
        """Copies a contiguous array to the GPU, behind what the stream has to do."""
        source = ctypes.c_void_p(array.ctypes.data)
        self._call(
            "cuMemcpyHtoDAsync_v2", ctypes.c_uint64(pointer), source, ctypes.c_size_t(array.nbytes), self._stream
        )

    def read(self, array: npt.NDArray[Any], pointer: Pointer) -> None:
        """Copies from the GPU into a contiguous array; it holds the data after `wait`."""
        target = ctypes.c_void_p(array.ctypes.data)
        self._call(
            "cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(pointer), ctypes.c_size_t(array.nbytes), self._stream
        )

    def wait(self) -> None:
        """Waits until the stream is done."""
        self._call("cuStreamSynchronize", self._stream)

    def load(self, code: bytes, subject: str) -> Handle:
        """Loads a cubin or PTX.

        Raises:
            DeviceError: this GPU cannot run it.
        """
        module = Handle()
        data = ctypes.create_string_buffer(code, len(code) + 1)
        status = self._cuda.cuModuleLoadData(ctypes.byref(module), data)
        if status == NO_BINARY:
            raise DeviceError(
                f"{subject}: found no code for compute capability {self.capability[0]}.{self.capability[1]} "
                f"({self.name}), expected it; build the model again with a --target for this GPU"
            )
        if status == NEWER_PTX:
            raise DeviceError(
                f"{subject}: found PTX of a newer CUDA than the driver's ({self.driver}), expected one that it knows; "
                "update the NVIDIA driver, or build with a --target of machine code for this GPU"
            )
        self._check(status, "cuModuleLoadData")
        return module

    def unload(self, module: Handle) -> None:
        """Gives a module back."""
        self._call("cuModuleUnload", module)

    def function(self, module: Handle, name: str) -> Handle:
        """A kernel of a module, loaded now: the driver would load it only when it first runs, perhaps in a graph."""
        found = Handle()
        self._call("cuModuleGetFunction", ctypes.byref(found), module, name.encode())
        self._call("cuFuncLoad", found)
        return found

    def launch(self, launch: Launch) -> None:
        """Starts a kernel."""
        values = [*(ctypes.c_uint64(pointer) for pointer in launch.pointers), ctypes.c_int(launch.samples)]
        parameters = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = (*launch.blocks, 1, *launch.threads, 1, 0)
        self._call("cuLaunchKernel", launch.function, *sizes, self._stream, parameters, None)

    def capture(self, launches: Sequence[Launch]) -> Handle:
        """A graph of launches, one after another, ready to be started as one."""
        graph, ready = Handle(), Handle()
        self._call("cuStreamBeginCapture_v2", self._stream, THREAD_LOCAL_CAPTURE)
        try:
            for launch in launches:
                self.launch(launch)
        except DeviceError:
            # The stream would refuse everything else; that the capture is broken is known.
            self._cuda.cuStreamEndCapture(self._stream, ctypes.byref(graph))
            raise
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_uint64(0))
        finally:
            self._call("cuGraphDestroy", graph)
        return ready

    def start(self, graph: Handle) -> None:
        """Starts a graph."""
        self._call("cuGraphLaunch", graph, self._stream)

    def seconds(self, graph: Handle) -> float:
        """Runs a graph; gives its time on the GPU, between events before and behind it (a resolution of 0.5 us)."""
        events: list[Handle] = []
        try:
            for _ in range(2):
                events.append(Handle())
                self._call("cuEventCreate", ctypes.byref(events[-1]), 0)
            before, behind = events
            self._call("cuEventRecord", before, self._stream)
            self.start(graph)
            self._call("cuEventRecord", behind, self._stream)
            self._call("cuEventSynchronize", behind)
            milliseconds = ctypes.c_float()
            self._call("cuEventElapsedTime_v2", ctypes.byref(milliseconds), before, behind)
        finally:
            for event in filter(None, events):
                self._cuda.cuEventDestroy_v2(event)
        return milliseconds.value / 1e3

    def drop(self, graph: Handle) -> None:
        """Gives a graph back."""
        self._call("cuGraphExecDestroy", graph)

    def attribute(self, number: int) -> int:
        """A CUdevice_attribute."""
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(getattr(self._cuda, name)(*arguments), name)

    def _check(self, status: int, name: str) -> None:
        if status == OUT_OF_MEMORY:
            raise DeviceError(
                f"CUDA ({name}): found the memory of the GPU full, expected room; close other programs, or run fewer "
                "samples at a time"
            )
        if status:
            raise DeviceError(
                f"CUDA ({name}): found error {status} ({self._meaning(status)}), expected none; report this as a bug"
            )

    def _meaning(self, status: int) -> str:
        text = ctypes.c_char_p()
        self._cuda.cuGetErrorString(status, ctypes.byref(text))
        return (text.value or b"unknown").decode(errors="replace")


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
