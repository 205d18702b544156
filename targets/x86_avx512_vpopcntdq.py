"""x86-64 with AVX-512 VNNI, VPOPCNTDQ and BITALG: Ice Lake-SP, Sapphire Rapids, Zen 4 and later."""

from lqcompile.target import Target

TARGET = Target(
    name="x86-avx512-vpopcntdq",
    description="x86-64 with AVX-512 VNNI and VPOPCNTDQ (Ice Lake-SP, Sapphire Rapids, Zen 4)",
    machine="x86_64",
    schedule="x86",
    # Microcode against Downfall makes gathers slow: LLVM would use them for a few scalar loops. And it would take
    # VPDPWSSD apart, for sums that come sooner.
    llvm={
        "mcpu": "cascadelake",
        "mattr": ["+avx512vpopcntdq", "+avx512bitalg", "+avx512vbmi", "+prefer-no-gather", "+fast-dpwssd"],
    },
    features=(
        "avx2",
        "fma",
        "bmi2",
        "popcnt",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512_vnni",
        "avx512_vpopcntdq",
        "avx512_bitalg",
        "avx512vbmi",
    ),
    vector_bits=512,
    # Two pipes of 512 bits: VPDPBUSD for 64, VPDPWSSD for 32; AND, VPOPCNTD and VPADDD for 512 bits
    # (docs/performance.md).
    peaks={"FloatFma": 32, "DotVnni": 128, "WinogradVnni": 288, "DotCells": 215, "PopcountLanes": 341},
)
