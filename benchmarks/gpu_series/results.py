"""Results of a series, in one JSON file that is whole after every cell: an interrupted series goes on behind it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lqcompile.errors import InputError
from lqcompile.files import write_atomically

PARTS = ("peaks", "gemm", "networks")


class Results:
    """What was measured on one GPU.

    Args:
        path: of the file; it need not be there.
        machine: facts about the GPU and the software; results of others are not added to.

    Raises:
        InputError: the file holds results of another machine, or no results.
    """

    def __init__(self, path: Path, machine: dict[str, str]) -> None:
        self.path = path
        self.data: dict[str, Any] = {"machine": machine, "seconds": {}, **{part: {} for part in PARTS}}
        if path.exists():
            self.data = read_results(path)
            found = self.data["machine"]
            differ = [key for key in machine if found.get(key) != machine[key]]
            if differ:
                words = ", ".join(f"{key} {found.get(key)!r}, here {machine[key]!r}" for key in differ)
                raise InputError(
                    f"results '{path}': found those of {words}, expected this machine's; give another --results"
                )

    def has(self, part: str, key: str) -> bool:
        """Whether a cell was measured."""
        return key in self.data[part]

    def add(self, part: str, key: str, cell: Any, seconds: float) -> None:
        """Keeps a cell that took some seconds to measure, and the day."""
        self.data[part][key] = cell
        self.data["seconds"][part] = max(seconds, self.data["seconds"].get(part, 0.0))
        self.data["measured"] = time.strftime("%Y-%m-%d", time.gmtime())
        write_atomically(self.path, (json.dumps(self.data, indent=1) + "\n").encode())


def read_results(path: Path) -> dict[str, Any]:
    """The results in a file.

    Raises:
        InputError: it holds none.
    """
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"results '{path}': found no JSON ({error}), expected what benchmarks/gpu.py wrote") from error
    if not isinstance(data, dict) or not {"machine", "seconds", *PARTS} <= data.keys():
        raise InputError(
            f"results '{path}': found other JSON, expected what benchmarks/gpu.py wrote; give another file"
        )
    return data


class Deadline:
    """How much of the time of a call is left.

    Args:
        seconds: of the call.
        results: whose cells tell how long one takes.
    """

    def __init__(self, seconds: float, results: Results) -> None:
        self.end = time.monotonic() + seconds
        self.results = results

    def allows(self, part: str) -> bool:
        """Whether a cell of a part fits that takes as long as the longest before it, in this call or an earlier one."""
        return time.monotonic() + self.results.data["seconds"].get(part, 0.0) < self.end
