"""A worker of pytest that dies is a failure that says how."""

import subprocess
import sys
from pathlib import Path

import workers

DIE = """
import os, signal

def test_is_killed():
    os.kill(os.getpid(), signal.SIGKILL)

def test_leaves():
    os._exit(0)

def test_crashes():
    os.kill(os.getpid(), signal.SIGSEGV)

def test_lives():
    pass
"""


def test_a_worker_that_dies_is_told_of(tmp_path):
    (tmp_path / "test_it.py").write_text(DIE)
    (tmp_path / "conftest.py").write_text("from workers import *\n")
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {Path(workers.__file__).parent}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "3 failed, 1 passed" in done.stdout
    assert ") ended by SIGKILL" in done.stdout and ") ended with exit code 0" in done.stdout
    assert ") ended by SIGSEGV" in done.stdout and "in test_crashes" in done.stdout
