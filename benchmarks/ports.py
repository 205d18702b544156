"""What the inner loops of the AVX2 kernels reach on this CPU with all operands in registers and the first-level cache.

    python benchmarks/ports.py

Each loop is one step of a kernel's register tile, without what surrounds it: no flushes, epilogues or cache misses. The
shortest of many runs counts. Cycles are those of a loop of dependent additions, one cycle each.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

RUNS, STEPS = 8000, 1000

SOURCE = """
#include <stdio.h>
#include <time.h>
static char bytes[1 << 14] __attribute__((aligned(64)));
int main(void) {{
  for (int i = 0; i < sizeof bytes; i++) bytes[i] = i * 7 % 5;  /* a page of zeros would be shared */
  for (int i = 0; i < 16; i++) ((int *)(bytes + 8192))[i] = 16 * i;  /* offsets of rows */
  double best = 1e9;
  for (int run = 0; run < {runs}; run++) {{
    struct timespec first, last;
    long steps = {steps};
    clock_gettime(CLOCK_MONOTONIC, &first);
    __asm__ volatile(".p2align 6\\n1:\\n{body}dec %0\\njnz 1b\\n" : "+r"(steps) : "r"(bytes), "r"(bytes + 8192)
      : "memory", "rcx", {registers});
    clock_gettime(CLOCK_MONOTONIC, &last);
    double ns = ((last.tv_sec - first.tv_sec) * 1e9 + (last.tv_nsec - first.tv_nsec)) / {steps};
    if (ns < best) best = ns;
  }}
  printf("%f\\n", best);
}}
"""


def multiply_bytes(accumulator: int, weight: int) -> str:
    """`DotBytes`: VPMADDUBSW, VPADDW."""
    return f"vpmaddubsw %%ymm{weight}, %%ymm12, %%ymm13\nvpaddw %%ymm13, %%ymm{accumulator}, %%ymm{accumulator}\n"


def multiply_bytes_wide(accumulator: int, weight: int) -> str:
    """`DotBytesWide`, and what int8 kernels without VNNI do: VPMADDUBSW, VPMADDWD, VPADDD."""
    return (
        f"vpmaddubsw %%ymm{weight}, %%ymm12, %%ymm13\nvpmaddwd %%ymm15, %%ymm13, %%ymm13\n"
        f"vpaddd %%ymm13, %%ymm{accumulator}, %%ymm{accumulator}\n"
    )


def dot(pixels: int, vectors: int, step: Callable[[int, int], str]) -> str:
    """One word of a dot8 tile."""
    body = "".join(f"vmovdqu {32 * n}(%1), %%ymm{8 + n}\n" for n in range(vectors))
    for pixel in range(pixels):
        body += f"vpbroadcastd {64 * pixel}(%2), %%ymm12\n"
        body += "".join(step(vectors * pixel + n, 8 + n) for n in range(vectors))
    return body


def look_up(pixels: int, vectors: int) -> str:
    """One byte of codes of a lut tile."""
    body = "".join(f"vmovdqu {32 * n}(%1), %%ymm{8 + n}\n" for n in range(2 * vectors))
    for pixel in range(pixels):
        body += f"movzbl {64 * pixel}(%2), %%ecx\nshl $5, %%ecx\n"
        body += "vbroadcasti128 (%1,%%rcx), %%ymm12\nvbroadcasti128 16(%1,%%rcx), %%ymm13\n"
        for half in range(2):
            for n in range(vectors):
                held = vectors * pixel + n
                body += f"vpshufb %%ymm{8 + 2 * n + half}, %%ymm{12 + half}, %%ymm{14 + n % 2}\n"
                body += f"vpaddb %%ymm{14 + n % 2}, %%ymm{held}, %%ymm{held}\n"
    return body


def look_up_pair(outputs: int, together: int, *, levels: bool) -> str:
    """`LookupLevels` or `LookupCounts`: `together` look-ups of a pixel for each output; bytes added, then parted."""
    body = ""
    for step in range(together):
        body += f"movslq {4 * step}(%2), %%rcx\nvbroadcasti128 (%1,%%rcx), %%ymm15\n"
        for output in range(outputs):
            found = 14 if step else 8 + output
            body += f"vpshufb {32 * (outputs * step + output)}(%1), %%ymm15, %%ymm{found}\n"
            body += f"vpaddb %%ymm14, %%ymm{8 + output}, %%ymm{8 + output}\n" if step else ""
    width, shift = ("w", 8) if levels else ("b", 4)
    for output in range(outputs):
        held, value = 2 * output, 8 + output
        body += f"vpadd{width} %%ymm{value}, %%ymm{held}, %%ymm{held}\nvpsrlw ${shift}, %%ymm{value}, %%ymm14\n"
        body += "" if levels else "vpand 4096(%1), %%ymm14, %%ymm14\n"
        body += f"vpadd{width} %%ymm14, %%ymm{held + 1}, %%ymm{held + 1}\n"
    return body


LOOPS = {
    "dot8, VPMADDUBSW in 16 bits, 4x2": (dot(4, 2, multiply_bytes), 4 * 2 * 32),
    "dot8, VPMADDUBSW in 16 bits, 7x1": (dot(7, 1, multiply_bytes), 7 * 1 * 32),
    "dot8, VPMADDUBSW widened at once, 4x2": (dot(4, 2, multiply_bytes_wide), 4 * 2 * 32),
    "lut, 4x2, per plane pair": (look_up(4, 2), 4 * 2 * 8 * 32),
    "lut, counts of two planes, 1x4, per plane pair": (look_up_pair(4, 3, levels=False), 2 * 4 * 3 * 4 * 32),
    "lut, two levels of two planes, 1x4, per plane pair": (look_up_pair(4, 2, levels=True), 2 * 4 * 2 * 4 * 32),
    "lut, four levels of two planes, 1x4, per plane pair": (look_up_pair(4, 4, levels=True), 2 * 4 * 4 * 4 * 32),
    "lut, eight levels of two planes, 1x4, per plane pair": (look_up_pair(4, 8, levels=True), 2 * 4 * 8 * 4 * 32),
}
"""Name of a loop to its body and its multiply-accumulates."""


def shortest_ns(body: str) -> float:
    """Nanoseconds of one step."""
    registers = ", ".join(f'"ymm{index}"' for index in range(16))
    lines = body.replace("\n", "\\n")
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "loop.c", Path(folder) / "loop"
        source.write_text(SOURCE.format(runs=RUNS, steps=STEPS, body=lines, registers=registers))
        command = [sys.executable, "-m", "ziglang", "cc", "-O1", "-mavx2", str(source), "-o", str(program)]
        subprocess.run(command, check=True)
        return float(subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print a table."""
    chain = 16
    cycle = shortest_ns("add $1, %%rcx\n" * chain) / chain
    print(f"clock: {1 / cycle:.2f} GHz")
    for name, (body, macs) in LOOPS.items():
        cycles = shortest_ns(body) / cycle
        print(f"{name}: {cycles:.1f} cycles, {macs / cycles:.0f} multiply-accumulates per cycle")


if __name__ == "__main__":
    main()
