"""x86-64 with AVX-512 VNNI: Cascade Lake."""

from lqcompile.target import Target

TARGET = Target(
    name="x86-avx512-vnni",
    description="x86-64 with AVX-512 VNNI (Cascade Lake)",
    machine="x86_64",
    schedule="x86",
    # Microcode against Downfall makes gathers slow: LLVM would use them for a few scalar loops.
    llvm={"mcpu": "cascadelake", "mattr": ["+prefer-no-gather"]},
    features=("avx2", "fma", "bmi2", "popcnt", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
    vector_bits=512,
    # Two pipes of 512 bits: VPDPBUSD for 64, 2.25 times as many on transformed tiles; 29 instructions for 8 x 512 bits by
    # carry-save adders (docs/performance.md). Look-ups as without VNNI. VPDPWSSD for 32, tiles of cells do 11x11 taps at
    # stride 4 with 108 for 363.
    peaks={
        "FloatFma": 32,
        "DotVnni": 128,
        "PopcountCarrySave": 282,
        "WinogradVnni": 288,
        "Lookup": 256,
        "LookupCounts": 341,
        "LookupPixels": 341,
        "LookupLevels": 512,
    },
)
