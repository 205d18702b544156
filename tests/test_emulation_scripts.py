"""Where the emulated board or PC cannot be made: a line that says why, and tests that skip with a reason."""

import os
import shutil
import subprocess

import board
import emulated_pc
import pytest

SCRIPTS = board.ROOT / "scripts"
TOOLS = ("bash", "dirname", "realpath", "cat", "sha256sum", "cut")


def run(folder, script, *tools):
    """Run the script on a machine that has only these tools."""
    (folder / "bin").mkdir()
    for tool in (*TOOLS, *tools):
        (folder / "bin" / tool).symlink_to(shutil.which(tool) or "/bin/false")
    environment = os.environ | {"PATH": str(folder / "bin"), "LQCOMPILE_BOARD": str(folder / "board")}
    environment["LQCOMPILE_PC"] = str(folder / "pc")
    return subprocess.run([SCRIPTS / script], env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ((), "found no qemu-aarch64-static; apt-get install qemu-user-static"),
        (("qemu-aarch64-static",), "found no apt-get, expected Debian or a system that is made from it"),
    ],
)
def test_what_is_missing_is_said(tmp_path, tools, message):
    done = run(tmp_path, "emulated-board.sh", *tools)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"emulated-board: {message}\n")
    assert not (tmp_path / "board").exists()


def test_without_a_board_tests_skip(monkeypatch, tmp_path):
    monkeypatch.setattr(board, "FOLDER", tmp_path)
    with pytest.raises(pytest.skip.Exception, match="there is no emulated board; 'make board' makes it"):
        board.Board()


def test_what_the_pc_lacks_is_said(tmp_path):
    done = run(tmp_path, "emulated-pc.sh", "uname")
    message = "found no apt-get, expected Debian or a system that is made from it"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"emulated-pc: {message}\n")
    assert not (tmp_path / "pc").exists()


def test_without_a_pc_tests_skip(monkeypatch, tmp_path):
    monkeypatch.setattr(emulated_pc, "FOLDER", tmp_path)
    with pytest.raises(pytest.skip.Exception, match="there is no emulated PC; 'make pc' makes it"):
        emulated_pc.EmulatedPC(None, emulated_pc.PROCESSORS["x86-amx"])


def test_what_the_pc_for_amx_lacks_is_said(tmp_path):
    done = run(tmp_path, "emulated-pc-amx.sh")
    message = f"found no emulated PC in {tmp_path / 'pc'}, which this adds to; make pc"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"emulated-pc-amx: {message}\n")
    assert not (tmp_path / "pc").exists()


def test_without_right_tile_products_tests_skip(monkeypatch, tmp_path):
    (tmp_path / ".ready").touch()
    monkeypatch.setattr(emulated_pc, "FOLDER", tmp_path)
    monkeypatch.setattr(emulated_pc, "MENDED", tmp_path / "amx/bochs")
    with pytest.raises(pytest.skip.Exception, match="multiplies signed bytes wrongly; 'make pc-amx' makes one"):
        emulated_pc.skip_unless_tiles()
