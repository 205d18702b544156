"""Caches of a machine, from made-up system files and from this machine's own."""

from lqcompile.profiling.caches import MEMORY, Cache, level_of, read_caches

FILES = {
    "index0": ("Data", "1", "32K", "0\n"),
    "index1": ("Instruction", "1", "48K", "0\n"),
    "index2": ("Unified", "2", "1M", "0-1\n"),
    "index3": ("Unified", "3", "16384K", "0-3,8-11\n"),
}


def system(folder, files):
    for name, texts in files.items():
        path = folder / "sys/devices/system/cpu/cpu0/cache" / name
        path.mkdir(parents=True)
        for file, text in zip(("type", "level", "size", "shared_cpu_list"), texts, strict=True):
            (path / file).write_text(text)
    return folder


def test_data_caches_from_the_closest_on(tmp_path):
    assert read_caches(system(tmp_path, FILES)) == [
        Cache(level=1, bytes=32 << 10, cores=1),
        Cache(level=2, bytes=1 << 20, cores=2),
        Cache(level=3, bytes=16 << 20, cores=8),
    ]


def test_what_the_system_does_not_tell_is_left_out(tmp_path):
    assert read_caches(tmp_path) == []
    odd = {"index0": ("Data", "1", "", "0"), "index1": ("Data", "?", "32K", "0"), "index2": ("Unified", "2", "0K", "0")}
    assert read_caches(system(tmp_path, odd)) == []


def test_the_closest_level_that_holds_something(tmp_path):
    caches = read_caches(system(tmp_path, FILES))
    sizes = (0, 32 << 10, (32 << 10) + 1, 1 << 20, (16 << 20) + 1)
    assert [level_of(size, caches) for size in sizes] == ["L1", "L1", "L2", "L2", MEMORY]
    assert level_of(1, []) == MEMORY


def test_this_machine():
    levels = [cache.level for cache in read_caches()]
    assert levels == sorted(levels)
