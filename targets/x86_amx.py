"""x86-64 with AMX: Sapphire Rapids and later server processors.

The kernels also need Linux 5.16 or later: the operating system must let a process use tile registers.
"""

from lqcompile.target import Target

TARGET = Target(
    name="x86-amx",
    description="x86-64 with AMX-INT8 and AVX-512 VPOPCNTDQ (Sapphire Rapids and later, Linux from 5.16)",
    machine="x86_64",
    schedule="x86",
    # As for x86-avx512-vpopcntdq.
    llvm={
        "mcpu": "cascadelake",
        "mattr": [
            "+avx512vpopcntdq",
            "+avx512bitalg",
            "+avx512vbmi",
            "+prefer-no-gather",
            "+fast-dpwssd",
            "+amx-tile",
            "+amx-int8",
        ],
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
        "amx_tile",
        "amx_int8",
    ),
    vector_bits=512,
    # A TDPBUSD of 16,384 every 16 cycles; the rest as with AVX-512 VPOPCNTDQ (docs/performance.md).
    peaks={"FloatFma": 32, "DotTiles": 1024, "PopcountLanes": 341},
)
