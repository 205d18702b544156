"""CPU features, from what each operating system prints."""

import ast
import os
import platform
import subprocess
import sys

import pytest
from board import CPUS, I8MM_CPU, Board

from lqcompile import cpu

SAPPHIRE_RAPIDS = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C
flags\t\t: fpu pni sse4_1 sse4_2 abm avx avx2 fma avx512f avx512_vnni avx512_vpopcntdq amx_tile amx_int8 gfni bmi1
bugs\t\t: spectre_v1
"""

PI_5 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm asimddp\n"

MACOS_ARM = """\
hw.optional.AdvSIMD: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_SME: 0
hw.memsize: 17179869184
"""

MACOS_INTEL = "machdep.cpu.features: FPU SSE4.2 AVX1.0 FMA\nmachdep.cpu.leaf7_features: AVX2 BMI1 BMI2\n"


def test_linux_x86():
    found = cpu.parse_cpuinfo(SAPPHIRE_RAPIDS, "x86_64")
    expected = {
        "sse3",
        "sse4.1",
        "lzcnt",
        "avx2",
        "avx512f",
        "avx512vnni",
        "avx512vpopcntdq",
        "amx-int8",
        "gfni",
        "bmi",
    }
    assert expected <= found
    assert not any("_" in name for name in found)


def test_linux_arm():
    assert {"neon", "fullfp16", "dotprod", "lse", "rdm", "fp-armv8"} <= cpu.parse_cpuinfo(PI_5, "aarch64")


def test_a_core_that_lacks_a_feature_removes_it():
    little = "Features\t: fp asimd\n"
    assert cpu.parse_cpuinfo(PI_5 + little, "aarch64") == {"fp-armv8", "neon"}


def test_capability_bits():
    assert cpu.parse_hwcap(0x8FB, 0) >= {"fp-armv8", "neon", "crc"}
    assert not cpu.parse_hwcap(0x8FB, 0) & {"dotprod", "i8mm", "lse"}
    assert {"dotprod", "lse", "rdm"} <= cpu.parse_hwcap(0x119FFB, 0)
    assert cpu.parse_hwcap(0, 1 << 13) == {"i8mm"}


@pytest.mark.parametrize("device", [*CPUS, I8MM_CPU])
def test_features_of_the_emulated_board(device):
    script = "from lqcompile import cpu; print([cpu.machine(), cpu.cpu_name(), sorted(cpu.cpu_features())])"
    machine, name, features = ast.literal_eval(Board(device).run("-c", script).stdout)
    assert (machine, name) == ("aarch64", "aarch64")
    assert {"neon", "fp-armv8"} <= set(features)
    assert ("dotprod" in features) == (device in ("neoverse-n1", I8MM_CPU))
    assert ("i8mm" in features) == (device == I8MM_CPU)


def test_32_bit_python_on_a_64_bit_arm_kernel(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert cpu.machine() == "armv7l"


def test_no_cpuinfo_lines():
    assert cpu.parse_cpuinfo("", "x86_64") == frozenset()


def test_macos():
    assert cpu.parse_sysctl(MACOS_ARM) == {"neon", "dotprod", "i8mm"}
    assert cpu.parse_sysctl(MACOS_INTEL) == {"fpu", "sse4.2", "avx", "fma", "avx2", "bmi", "bmi2"}


@pytest.mark.parametrize(("reported", "expected"), [("AMD64", "x86_64"), ("arm64", "aarch64"), ("riscv64", "riscv64")])
def test_machine_names(monkeypatch, reported, expected):
    monkeypatch.setattr(platform, "machine", lambda: reported)
    assert cpu.machine() == expected


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [("Darwin", "arm64", {"neon", "dotprod", "i8mm", "fp-armv8"}), ("Windows", "AMD64", {"sse", "sse2"})],
)
def test_other_systems(monkeypatch, system, machine, expected):
    listing = subprocess.CompletedProcess([], 0, stdout=MACOS_ARM)
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: listing)
    cpu.cpu_features.cache_clear()
    try:
        assert cpu.cpu_features() == expected
    finally:
        cpu.cpu_features.cache_clear()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64", "AMD64", "arm64"), reason="no baseline is known")
def test_this_machine():
    assert cpu.cpu_features() & {"sse2", "neon"}
    assert cpu.cpu_name()


def test_linux_and_llvm_spelling_are_the_same():
    assert cpu.normalise({"avx512_vnni"}, "x86_64") == cpu.normalise({"avx512vnni"}, "x86_64")


def test_cores_are_no_more_than_processors():
    assert 1 <= cpu.cores() <= cpu.logical_cores() <= os.cpu_count()
