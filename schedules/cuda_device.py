"""Device functions that kernels call by name: votes and sums of a warp, and instructions that only PTX has.

Where a function is inline PTX, its meaning is written a second time for tests, after the PTX ISA (tests/gpu).
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from .isa import Expr

HELPERS = {
    "lq_word": "unsigned int lq_word(const void* place) { return *static_cast<const unsigned int*>(place); }",
    "lq_ballot": "unsigned int lq_ballot(bool condition) { return __ballot_sync(0xffffffffu, condition); }",
    "lq_warp_sum": "int lq_warp_sum(int value) { return __reduce_add_sync(0xffffffffu, value); }",
    "lq_warp_add": """float lq_warp_add(float value) {
  for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}""",
    "lq_warp_max": """float lq_warp_max(float value) {
  for (int step = 16; step; step >>= 1) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}""",
    "lq_dot": """int lq_dot(unsigned int codes, int weights, int sum) {
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(codes), "r"(weights), "r"(sum));
  return sum;
}""",
    "lq_b1mma": """void lq_b1mma(int* sums, const unsigned int* codes, const unsigned int* weights) {
  asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(codes[0]), "r"(codes[1]), "r"(codes[2]), "r"(codes[3]), "r"(weights[0]), "r"(weights[1]));
}""",
    "lq_i8mma": """void lq_i8mma(int* sums, const unsigned int* codes, const unsigned int* weights) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(codes[0]), "r"(codes[1]), "r"(codes[2]), "r"(codes[3]), "r"(weights[0]), "r"(weights[1]));
}""",
    "lq_fragment4": """void lq_fragment4(unsigned int* held, const void* row) {
  unsigned int place = static_cast<unsigned int>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(held[0]), "=r"(held[1]), "=r"(held[2]), "=r"(held[3]) : "r"(place) : "memory");
}""",
    "lq_fence_async": """void lq_fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }""",
    "lq_wgmma_fence": """void lq_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }""",
    "lq_wgmma_commit": """void lq_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }""",
    "lq_wgmma_wait": """void lq_wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }""",
    "lq_settle": """void lq_settle(int* sum) { asm volatile("" : "+r"(*sum) :: "memory"); }""",
    "lq_commit": """void lq_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }""",
}
"""Device functions by name, without qualifiers."""

for _groups in range(4):
    HELPERS[f"lq_wait{_groups}"] = (
        f"""void lq_wait{_groups}() {{ asm volatile("cp.async.wait_group {_groups};" ::: "memory"); }}"""
    )

for _size, _cache in ((4, "ca"), (8, "ca"), (16, "cg")):  # only 16 bytes can pass by the first-level cache
    HELPERS[f"lq_copy{_size}"] = f"""void lq_copy{_size}(void* target, const void* source) {{
  unsigned int place = static_cast<unsigned int>(__cvta_generic_to_shared(target));
  asm volatile("cp.async.{_cache}.shared.global [%0], [%1], {_size};" :: "r"(place), "l"(source) : "memory");
}}"""

for _row_bytes, _swizzle in ((128, 1), (64, 2), (32, 3)):
    HELPERS[f"lq_matrix{_row_bytes}"] = f"""unsigned long long lq_matrix{_row_bytes}(const void* place) {{
  unsigned long long start = __cvta_generic_to_shared(place) & 0x3ffff;
  return start >> 4 | {8 * _row_bytes >> 4}ull << 32 | {_swizzle}ull << 62;
}}"""

for _columns in (32, 64, 128, 256):
    _sums = _columns // 2
    _held = ", ".join(f"%{index}" for index in range(_sums))
    _operands = ", ".join(f'"+r"(sums[{index}])' for index in range(_sums))
    HELPERS[
        f"lq_b1wgmma{_columns}"
    ] = f"""void lq_b1wgmma{_columns}(int* sums, unsigned long long codes, unsigned long long weights) {{
  asm volatile("{{\\n.reg .pred add;\\nsetp.ne.b32 add, %{_sums + 2}, 0;\\n"
               "wgmma.mma_async.sync.aligned.m64n{_columns}k256.s32.b1.b1.and.popc {{{_held}}}, "
               "%{_sums}, %{_sums + 1}, add;\\n}}"
               : {_operands} : "l"(codes), "l"(weights), "r"(1));
}}"""


def device_call(name: str, *arguments: Expr, dtype: str) -> Expr:
    """A call of a device function: one of `HELPERS`, or one of CUDA's own."""
    source = f"__device__ __forceinline__ {HELPERS[name]}\n" if name in HELPERS else ""
    return T.cuda.func_call(name, *arguments, source_code=source, return_type=dtype)
