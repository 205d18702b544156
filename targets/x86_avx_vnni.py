"""x86-64 with AVX2 and AVX-VNNI: Alder Lake and later client processors, Sierra Forest."""

from lqcompile.target import Target

TARGET = Target(
    name="x86-avx-vnni",
    description="x86-64 with AVX2 and AVX-VNNI, without AVX-512 (Alder Lake and later, Sierra Forest)",
    machine="x86_64",
    schedule="x86",
    # As for x86-avx2.
    llvm={"mcpu": "haswell", "mattr": ["+avxvnni"], "cl-opt": ["-x86-machine-combiner:bool=false"]},
    features=("avx2", "fma", "bmi2", "popcnt", "avx_vnni"),
    vector_bits=256,
    # Three vector pipes: VFMADD and VPDPBUSD issue twice a cycle, the 8 instructions of a popcount take 8/3 cycles,
    # VPSHUFB and VPADDB of a look-up 2/3 (docs/performance.md).
    peaks={
        "FloatFma": 16,
        "DotVnni": 64,
        "DotCells": 108,
        "WinogradVnni": 144,
        "PopcountBytes": 96,
        "Lookup": 192,
        "LookupCounts": 256,
        "LookupPixels": 256,
        "LookupLevels": 384,
    },
)
