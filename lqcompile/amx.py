"""Linux's leave to use AMX tile registers: a process must ask for it, or its first tile instruction ends it.

Source: Documentation/arch/x86/xstate.rst in Linux from 5.16 on.
"""

from __future__ import annotations

import ctypes
import functools
import os

_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA = 158, 0x1023, 18
"""System call of x86-64, its operation, and the state component of tile registers."""


@functools.cache
def refusal() -> str:
    """Asks for tile registers: why Linux refuses, such as ``Operation not permitted``; empty where it agrees.

    What it agrees to holds for all threads of the process, for good.
    """
    system = ctypes.CDLL(None, use_errno=True)
    failed = system.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA)
    return os.strerror(ctypes.get_errno()) if failed else ""
