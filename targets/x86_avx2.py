"""x86-64 with AVX2 and FMA: Haswell, Zen and later."""

from lqcompile.target import Target

TARGET = Target(
    name="x86-avx2",
    description="x86-64 with AVX2 and FMA (Haswell, Zen 1 to 3)",
    machine="x86_64",
    schedule="x86",
    # Reassociated sums of a tile need more registers than there are: LLVM 22 spills them.
    llvm={"mcpu": "haswell", "cl-opt": ["-x86-machine-combiner:bool=false"]},
    features=("avx2", "fma", "bmi2", "popcnt"),
    vector_bits=256,
    # Zen: four vector pipes; VFMADD, VPMADDUBSW, VPMADDWD and VPSHUFB issue twice a cycle, additions four times.
    # Transformed tiles do nine products of 3x3 taps by four multiplications (schedules/x86_winograd.py).
    # Tiles of cells do 11x11 taps at stride 4 with 108 multiplications for 363, 7x7 at 2 with 48 for 147 (x86_cells).
    # Popcount by bytes is 8 instructions for 256 bits. A look-up of two planes is two instructions for 256
    # plane-pair products, of counts three. Intel's three pipes reach less (docs/performance.md).
    peaks={
        "FloatFma": 16,
        "DotBytes": 64,
        "WinogradBytes": 144,
        "DotBytesWide": 32,
        "DotPairs": 32,
        "DotRows": 32,
        "DotCells": 108,
        "PopcountBytes": 128,
        "Lookup": 256,
        "LookupCounts": 341,
        "LookupPixels": 341,
        "LookupLevels": 512,
    },
)
