"""x86-64 with AVX-512 VNNI: Cascade Lake."""

from lqcompile.target import Target

TARGET = Target(
    name="x86-avx512-vnni",
    description="x86-64 with AVX-512 VNNI (Cascade Lake)",
    machine="x86_64",
    schedule="x86",
    # Microcode against Downfall makes gathers slow: LLVM would use them for a few scalar loops. And it would take
    # VPDPWSSD apart, for sums that come sooner.
    llvm={"mcpu": "cascadelake", "mattr": ["+prefer-no-gather", "+fast-dpwssd"]},
    features=("avx2", "fma", "bmi2", "popcnt", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
    vector_bits=512,
    # Two pipes of 512 bits: VPDPBUSD for 64, 2.25 times as many on transformed tiles; VPDPWSSD for 32, 3.36 times as
    # many on tiles of cells; 29 instructions for 8 x 512 bits by carry-save adders; look-ups as without VNNI
    # (docs/performance.md).
    peaks={
        "FloatFma": 32,
        "DotVnni": 128,
        "DotCells": 215,
        "WinogradVnni": 288,
        "PopcountCarrySave": 282,
        "Lookup": 256,
        "LookupCounts": 341,
        "LookupPixels": 341,
        "LookupLevels": 512,
    },
)
