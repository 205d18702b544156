"""CUDA C kernels that do nothing but one instruction, over and over: what a GPU can do at most.

Products keep everything in registers (`mma.sync`) or read the same few kilobytes of shared memory (`wgmma`, Hopper
only: ``sm_90a``). Chains of sums are independent, and what they give is written at the end, so that nothing is
optimised away. A kernel gets its results, its data, and how many rounds to go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HOPPER = (9, 0)
"""Compute capability."""

UNROLLED = 4
"""Times that every chain of `mma` goes on in one round."""

CHAINS = 8
"""Independent sums of a warp in `mma` kernels."""

DEEP = 8
"""Products of `wgmma` that are under way before they are waited for."""

THREADS = 256

COLUMNS = 256
"""Of a `wgmma`."""

VECTORS = 8
"""16 bytes each, that a thread reads before it uses them."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """A kernel of one instruction.

    Args:
        name: of the kernel.
        what: it measures, in words.
        source: CUDA C.
        sass: how the instruction starts in machine code.
        copies: of the instruction in the loop.
        macs: multiply-accumulates of a block in one round; 0 for kernels of memory.
        hopper: whether compute capability 9.0 alone has it.
    """

    name: str
    what: str
    source: str
    sass: str
    copies: int
    macs: int = 0
    hopper: bool = False


def _mma(name: str, what: str, shape: str, types: str, depth: int, sass: str) -> Peak:
    """``mma.sync.aligned.m16n8k{depth}``: four words of A, two of B, four sums."""
    real = types.startswith(".f32")
    kind, mark = ("float", "f") if real else ("int", "r")
    operands = ", ".join(f'"+{mark}"(sums[chain][{index}])' for index in range(4))
    source = f"""
extern "C" __global__ void __launch_bounds__({THREADS}) {name}({kind}* results, const unsigned* data, int rounds) {{
  unsigned a[4], b[2];
  for (int index = 0; index < 4; ++index) a[index] = data[index * {THREADS} + threadIdx.x];
  for (int index = 0; index < 2; ++index) b[index] = data[(4 + index) * {THREADS} + threadIdx.x];
  {kind} sums[{CHAINS}][4] = {{}};
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {{
#pragma unroll
    for (int turn = 0; turn < {UNROLLED}; ++turn) {{
#pragma unroll
      for (int chain = 0; chain < {CHAINS}; ++chain)
        asm volatile("mma.sync.aligned.{shape}.row.col{types} {{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, "
                     "{{%0, %1, %2, %3}};"
                     : {operands}
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }}
  }}
  {kind} sum = 0;
  for (int chain = 0; chain < {CHAINS}; ++chain)
    for (int index = 0; index < 4; ++index) sum += sums[chain][index];
  results[blockIdx.x * {THREADS} + threadIdx.x] = sum;
}}
"""
    warps = THREADS // 32
    copies = UNROLLED * CHAINS
    return Peak(name=name, what=what, source=source, sass=sass, copies=copies, macs=warps * copies * 16 * 8 * depth)


def _wgmma(name: str, what: str, shape: str, types: str, depth: int, sass: str, last: str) -> Peak:
    """``wgmma.mma_async.sync.aligned.m64n256k{depth}``: A and B in shared memory, 128 sums of each thread.

    Rows of both have 32 bytes. Without swizzling, 8 rows of 16 bytes lie together (128 bytes), the other half of these
    rows 128 bytes on, the next 8 rows 256 bytes on (PTX ISA, "Matrix Descriptor").
    """
    real = types.startswith(".f32")
    kind, mark = ("float", "f") if real else ("int", "r")
    sums = COLUMNS // 2
    places = ", ".join(f"%{index}" for index in range(sums))
    operands = ", ".join(f'"+{mark}"(sums[{index}])' for index in range(sums))
    source = f"""
extern "C" __global__ void __launch_bounds__({THREADS}, 1) {name}({kind}* results, const unsigned* data, int rounds) {{
  __shared__ __align__(1024) unsigned held[(64 + {COLUMNS}) * 8];
  for (int index = threadIdx.x; index < (64 + {COLUMNS}) * 8; index += {THREADS}) held[index] = data[index];
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
  unsigned start = static_cast<unsigned>(__cvta_generic_to_shared(held));
  unsigned long long strides = (8ull << 16) | (16ull << 32);
  unsigned long long a = strides | ((start >> 4) & 0x3fff), b = strides | (((start + 64 * 32) >> 4) & 0x3fff);
  {kind} sums[{sums}] = {{}};
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int turn = 0; turn < {DEEP}; ++turn)
      asm volatile("wgmma.mma_async.sync.aligned.{shape}{types} {{{places}}}, %{sums}, %{sums + 1}, {last};"
                   : {operands}
                   : "l"(a), "l"(b));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  }}
  {kind} sum = 0;
  for (int index = 0; index < {sums}; ++index) sum += sums[index];
  results[blockIdx.x * {THREADS} + threadIdx.x] = sum;
}}
"""
    groups = THREADS // 128
    macs = groups * DEEP * 64 * COLUMNS * depth
    return Peak(
        name=name,
        what=what,
        source=source,
        sass=sass,
        copies=DEEP,
        macs=macs,
        hopper=True,
    )


_READ = f"""
extern "C" __global__ void __launch_bounds__({THREADS}) read_memory(uint4* results, const uint4* data, int rounds) {{
  uint4 sum = {{0, 0, 0, 0}};
  long long place = static_cast<long long>(blockIdx.x) * {THREADS} + threadIdx.x;
  long long step = static_cast<long long>(gridDim.x) * {THREADS};
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {{
    uint4 held[{VECTORS}];
#pragma unroll
    for (int index = 0; index < {VECTORS}; ++index, place += step) held[index] = __ldcs(data + place);
#pragma unroll
    for (int index = 0; index < {VECTORS}; ++index) {{
      sum.x ^= held[index].x, sum.y ^= held[index].y, sum.z ^= held[index].z, sum.w ^= held[index].w;
    }}
  }}
  results[blockIdx.x * {THREADS} + threadIdx.x] = sum;
}}
"""

_COPY = f"""
extern "C" __global__ void __launch_bounds__({THREADS}) copy_memory(uint4* results, const uint4* data, int rounds) {{
  long long place = static_cast<long long>(blockIdx.x) * {THREADS} + threadIdx.x;
  long long step = static_cast<long long>(gridDim.x) * {THREADS};
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {{
    uint4 held[{VECTORS}];
#pragma unroll
    for (int index = 0; index < {VECTORS}; ++index) held[index] = __ldcs(data + place + index * step);
#pragma unroll
    for (int index = 0; index < {VECTORS}; ++index, place += step) __stcs(results + place, held[index]);
  }}
}}
"""

B1, INT8, FP16 = "b1", "int8", "fp16"
"""Kinds of products, the first part of the names of their kernels."""

READ = Peak(name="read_memory", what="bytes read", source=_READ, sass="LDG.E.", copies=VECTORS)
COPY = Peak(name="copy_memory", what="bytes read and written", source=_COPY, sass="STG.E.", copies=VECTORS)

AND_POPC = ".s32.b1.b1.s32.and.popc"

PRODUCTS = (
    _mma(f"{B1}_mma", "b1 AND, mma.m16n8k256", "m16n8k256", AND_POPC, 256, "BMMA.168256.AND.POPC"),
    _wgmma(
        f"{B1}_wgmma", "b1 AND, wgmma.m64n256k256", "m64n256k256", ".s32.b1.b1.and.popc", 256, "BGMMA.64x256x256", "1"
    ),
    _mma(f"{INT8}_mma", "int8, mma.m16n8k32", "m16n8k32", ".s32.s8.s8.s32", 32, "IMMA.16832.S8.S8"),
    _wgmma(f"{INT8}_wgmma", "int8, wgmma.m64n256k32", "m64n256k32", ".s32.s8.s8", 32, "IGMMA.64x256x32", "1"),
    _mma(f"{FP16}_mma", "fp16, float32 sums, mma.m16n8k16", "m16n8k16", ".f32.f16.f16.f32", 16, "HMMA.16816.F32"),
    _wgmma(
        f"{FP16}_wgmma",
        "fp16, float32 sums, wgmma.m64n256k16",
        "m64n256k16",
        ".f32.f16.f16",
        16,
        "HGMMA.64x256x16",
        "1, 1, 1, 0, 0",
    ),
)
"""One instruction each."""

PEAKS = (*PRODUCTS, READ, COPY)


def architecture(capability: tuple[int, int]) -> str:
    """What kernels are compiled for: the machine code of one GPU, ``sm_90a`` for Hopper, which alone has `wgmma`."""
    return "sm_{}{}".format(*capability) + ("a" if capability == HOPPER else "")


def peaks_of(capability: tuple[int, int]) -> list[Peak]:
    """The kernels that a GPU can run."""
    return [peak for peak in PEAKS if capability == HOPPER or not peak.hopper]


def source(peaks: Iterable[Peak]) -> str:
    """CUDA C of kernels."""
    return "".join(peak.source for peak in peaks)
