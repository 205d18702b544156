"""x86-64 with AVX-512 F, BW, DQ and VL: Skylake-SP."""

from lqcompile.target import Target

TARGET = Target(
    name="x86-avx512",
    description="x86-64 with AVX-512 F/BW/DQ/VL (Skylake-SP)",
    machine="x86_64",
    schedule="x86",
    # Microcode against Downfall makes gathers slow: LLVM would use them for a few scalar loops.
    llvm={"mcpu": "skylake-avx512", "mattr": ["+prefer-no-gather"]},
    features=("avx2", "fma", "bmi2", "popcnt", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    vector_bits=512,
    # Two pipes of 512 bits. VPMADDUBSW and VPADDW for 64, widened at once by VPMADDWD; 2 VPMADDWD and 2 VPADDD for 64;
    # 29 instructions for 8 x 512 bits by carry-save adders. VPSHUFB, which one of the pipes runs, and VPADDB for 256
    # plane-pair products; of two planes, nine for 1536 (counts) or two for 512 (levels). Tiles of cells do 11x11 taps
    # at stride 4 with 108 multiplications for 363 (docs/performance.md).
    peaks={
        "FloatFma": 32,
        "DotBytes": 64,
        "WinogradBytes": 144,
        "DotBytesWide": 42.7,
        "DotPairs": 32,
        "DotRows": 32,
        "DotCells": 108,
        "PopcountCarrySave": 282,
        "Lookup": 256,
        "LookupCounts": 341,
        "LookupPixels": 341,
        "LookupLevels": 512,
    },
)
