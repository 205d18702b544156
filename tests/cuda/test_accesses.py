"""What the emulated GPU finds in kernels that work by luck: each fault is planted, alone in a kernel of one warp."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import emulated_gpu
import pytest

HELD = "__shared__ alignas(128) unsigned char held[1024]; int* words = (int*)held; const int t = threadIdx.x;"

FAULTS = {
    "no_barrier": ("words[t] = t; out[t] = words[t / 2];", "shared memory is read that another thread wrote"),
    "vote_is_no_barrier": (
        "words[t] = t; __ballot_sync(0xffffffffu, true); out[t] = words[t / 2];",
        "shared memory is read that another thread wrote",
    ),
    "no_barrier_behind": (
        "words[t] = t; __syncthreads(); out[t] = words[0]; if (t == 30) words[0] = 1;",
        "shared memory is written that another thread reads",
    ),
    "two_writers": ("words[t / 2] = t;", "two threads write unlike values to one place"),
    "nobody_wrote": ("out[t] = words[t];", "shared memory is read that nobody wrote"),
    "no_wait": (
        "lq_copy4(words + t, in + t); lq_commit(); __syncthreads(); out[t] = words[t]; lq_wait0();",
        "shared memory is read while it is copied to",
    ),
    "wait_for_too_few": (
        "lq_copy4(words + t, in + t); lq_commit(); lq_wait1(); __syncthreads(); out[t] = words[t];",
        "shared memory is read while it is copied to",
    ),
    "wait_without_barrier": (
        "lq_copy4(words + t, in + t); lq_commit(); lq_wait0(); out[t] = words[t / 2];",
        "shared memory is read that another thread wrote",
    ),
    "copy_over_what_is_read": (
        "words[t] = t; __syncthreads(); out[t] = words[0]; if (t == 30) lq_copy4(words, in); lq_commit(); lq_wait0();",
        "shared memory is written that another thread reads",
    ),
    "unlike_copies": (
        "lq_copy4(words, in + t); lq_commit(); lq_wait0();",
        "shared memory is copied to that another thread wrote",
    ),
    "misaligned": ("out[t] = *(const int*)((const char*)in + 1);", "an access that is not aligned to its size"),
    "misaligned_copy": (
        "lq_copy16(held + 16 * t, in + 1); lq_commit(); lq_wait0();",
        "an asynchronous copy between addresses that are not aligned to its size",
    ),
    "out_of_bounds": ("out[t] = in[64 + t];", "an access outside of the memory"),
    "copy_out_of_bounds": ("lq_copy4(words + t, in + 64); lq_commit();", "an access outside of the memory"),
    "blocks_race": ("if (blockIdx.x) out[t] = out[32 + t]; else out[32 + t] = t;", "one thread reads what another one"),
    "unlike_values": ("out[0] = t;", "two threads write unlike values to one place"),
    "banks": (
        "unsigned int row[4]; words[t] = 0; __syncthreads(); lq_fragment4(row, held);",
        "rows of ldmatrix that meet in a bank",
    ),
}
"""Name to the body of a kernel, and what is said of it."""

SOUND = """words[t] = t; words[32] = 5; __syncthreads(); out[t] = words[31 - t]; out[63] = 7; __syncthreads();
  lq_copy4(words + t, in + t); lq_copy4(words + 32, in); lq_commit(); lq_wait0(); __syncthreads();
  out[32 + t / 2] = words[t / 2] + words[32];"""

KERNEL = """
extern "C" __global__ void {name}(int* out, const int* in) {{ {held} {body} }}
extern "C" void run_{name}() {{
  int *out = memory, *in = memory + 64;
  void* parameters[] = {{&out, &in}};
  emulated_attach(holds);
  emulation::prepare(&{name}, parameters)->run({{2, 1, 1}}, {{32, 1, 1}});
}}
"""

SOURCE = """#include "emulation.h"
int memory[128];
bool holds(uintptr_t place, size_t size) {
  const auto start = reinterpret_cast<uintptr_t>(memory);
  return place >= start && place + size <= start + sizeof memory;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All kernels."""
    if emulated_gpu.GCC is None:
        pytest.skip("accesses are watched with g++ only")
    bodies = {name: body for name, (body, _) in FAULTS.items()} | {"sound": SOUND}
    kernels = (KERNEL.format(name=name, held=HELD, body=body) for name, body in bodies.items())
    path = tmp_path_factory.mktemp("accesses") / "kernels.so"
    path.write_bytes(emulated_gpu.shared_library(SOURCE + "".join(kernels), watched=True))
    return path


def run(library: Path, name: str) -> str:
    """What a kernel writes to standard error; it ends its process where there is a fault."""
    code = f"import ctypes; ctypes.CDLL({str(library)!r}).run_{name}()"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert (done.returncode != 0) == bool(done.stderr), done.stderr
    return done.stderr


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(library: Path, name: str) -> None:
    assert FAULTS[name][1] in run(library, name)


def test_a_sound_kernel_runs(library: Path) -> None:
    assert run(library, "sound") == ""
