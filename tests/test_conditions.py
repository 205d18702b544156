"""What a machine says of its state, from made-up system files and from this machine's own."""

import pytest
from board import CPUS, Board

from lqcompile import cpu
from lqcompile.conditions import conditions, emulator

PI_4 = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500345\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "600000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/class/thermal/thermal_zone1/temp": "-274000\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "proc/self/comm": "python3\n",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd\nCPU part\t: 0xd08\n",
}


def system(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_board_tells_its_state(tmp_path):
    assert conditions(system(tmp_path, PI_4)) == {
        "clock_mhz": [1500, 600],
        "governor": "ondemand",
        "temperature_c": 48.312,
        "throttled": "0x50005",
    }


def test_what_is_not_told_is_none(tmp_path):
    nothing = {"clock_mhz": None, "governor": None, "temperature_c": None, "throttled": None}
    assert conditions(tmp_path) == nothing
    odd = {"sys/class/thermal/thermal_zone0/temp": "unknown\n", "sys/class/thermal/thermal_zone1/temp": ""}
    assert conditions(system(tmp_path, odd)) == nothing


def test_this_machine_answers():
    found = conditions()
    assert set(found) == {"clock_mhz", "governor", "temperature_c", "throttled"}


X86_INFO = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n"


@pytest.mark.parametrize(
    ("machine", "files", "expected"),
    [
        ("aarch64", {}, None),
        ("aarch64", {"proc/self/comm": "qemu-aarch64-st\n"}, "qemu-user"),
        ("aarch64", {"proc/cpuinfo": X86_INFO}, "qemu-user"),
        ("armv7l", {"proc/cpuinfo": X86_INFO.replace("AuthenticAMD", "GenuineIntel")}, "qemu-user"),
        ("x86_64", {"proc/cpuinfo": X86_INFO}, None),
        ("x86_64", {"proc/cpuinfo": "model name\t: QEMU TCG CPU version 2.5+\n"}, "qemu-system"),
        ("x86_64", {"proc/cpuinfo": "model name\t: QEMU Virtual CPU version 2.5+\n"}, None),
    ],
)
def test_emulators(tmp_path, machine, files, expected):
    assert emulator(machine, system(tmp_path, PI_4 | files)) == expected


def test_without_proc_there_is_no_sign_of_emulation(tmp_path):
    assert emulator("aarch64", tmp_path) is None


def test_this_machine_is_not_taken_for_an_emulated_one():
    if "QEMU TCG" in cpu.cpu_name():
        pytest.skip("this machine is emulated")
    assert emulator(cpu.machine()) is None


def test_the_emulated_board_knows_that_it_is_one():
    script = "from lqcompile import conditions, cpu; print(conditions.emulator(cpu.machine()))"
    assert Board(CPUS[0]).run("-c", script).stdout == "qemu-user\n"
