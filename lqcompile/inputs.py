"""Arrays that go into a model: checked, read from files, or made at random."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lqcompile.errors import InputError

Arrays = dict[str, npt.NDArray[np.generic]]


class Port(Protocol):
    """An input of a model; `shape` is that of one sample."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def shape(self) -> Sequence[int]: ...  # noqa: D102

    @property
    def dtype(self) -> str: ...  # noqa: D102


def check_inputs(ports: Sequence[Port], arrays: Mapping[str, npt.ArrayLike]) -> Arrays:
    """Check arrays against the inputs of a model.

    Args:
        ports: the model's inputs.
        arrays: name to array[N, *shape], the same N for all.

    Returns:
        the arrays in the order of the inputs.

    Raises:
        InputError: a name, dtype, shape or number of samples is not as the model wants it.
    """
    names = [port.name for port in ports]
    for found in arrays:
        if found not in names:
            raise InputError(f"input '{found}': unknown; the model's inputs are {', '.join(names)}")
    checked: Arrays = {}
    for port in ports:
        if port.name not in arrays:
            raise InputError(f"input '{port.name}': missing, expected {_wanted(port)}")
        array = np.asarray(arrays[port.name])
        if array.dtype != np.dtype(port.dtype):
            raise InputError(
                f"input '{port.name}': found dtype {array.dtype}, expected {port.dtype}; "
                f"convert it with .astype('{port.dtype}')"
            )
        if array.ndim != len(port.shape) + 1 or array.shape[1:] != tuple(port.shape):
            raise InputError(f"input '{port.name}': found {_form(array)}, expected {_wanted(port)}")
        if not array.shape[0]:
            raise InputError(f"input '{port.name}': found no samples, expected at least one")
        checked[port.name] = array
    counts = {name: len(array) for name, array in checked.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"inputs: found different numbers of samples {counts}, expected the same for all")
    return checked


def load_inputs(files: Sequence[str], ports: Sequence[Port]) -> Arrays:
    """Read arrays from files.

    Args:
        files: ``FILE.npz`` (arrays by name), ``NAME=FILE.npy``, or ``FILE.npy`` where the model has one input.
        ports: the model's inputs.

    Raises:
        InputError: a file cannot be read, or it is not clear which input it is for.
    """
    arrays: Arrays = {}
    for item in files:
        name, separator, rest = item.partition("=")
        path = Path(rest if separator else item)
        content = read_arrays(path)
        if isinstance(content, dict):
            arrays.update(content)
        elif separator:
            arrays[name] = content
        elif len(ports) == 1:
            arrays[ports[0].name] = content
        else:
            names = ", ".join(port.name for port in ports)
            raise InputError(f"input file '{path}': found no input name, expected NAME={path} with one of {names}")
    return arrays


def load_samples(path: Path, port: Port) -> tuple[Arrays, npt.NDArray[np.int64] | None]:
    """Read the samples of a model with one input, and their labels.

    Args:
        path: ``.npz`` with the input's name (or ``images``, or the only array beside ``labels``) and perhaps
            ``labels``, or ``.npy``. uint8 images are scaled to 0..1 where the model wants float32, and take the input's
            shape.
        port: the input.

    Returns:
        input name to array[N, *shape], labels int64[N] or None.

    Raises:
        InputError: the file cannot be read or has no array for the input, or labels do not fit.
    """
    content = read_arrays(path)
    labels = None
    if isinstance(content, dict):
        found = content.pop("labels", None)
        labels = None if found is None else found.astype(np.int64).reshape(-1)
        key = next((name for name in (port.name, "images") if name in content), None)
        if key is None and len(content) == 1:
            (key,) = content
        if key is None:
            held = ", ".join(content) or "none"
            raise InputError(f"samples '{path}': found arrays {held}, expected '{port.name}' or 'images'; rename one")
        content = content[key]
    if content.dtype == np.uint8 and port.dtype == "float32":
        content = content.astype(np.float32) / np.float32(255)
        if content.ndim and content[:1].size == np.prod(port.shape):
            content = content.reshape(-1, *port.shape)
    samples = check_inputs([port], {port.name: content})
    if labels is not None and len(labels) != len(content):
        raise InputError(f"samples '{path}': found {len(labels)} labels, expected {len(content)}, one for each sample")
    return samples, labels


def random_inputs(ports: Sequence[Port], count: int, seed: int) -> Arrays:
    """Random samples: standard normal floats, integers over their whole range.

    Raises:
        InputError: `count` is not positive.
    """
    if count < 1:
        raise InputError(f"random samples: found {count}, expected at least 1")
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for port in ports:
        shape, dtype = (count, *port.shape), np.dtype(port.dtype)
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            arrays[port.name] = rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
        else:
            arrays[port.name] = rng.standard_normal(shape).astype(dtype)
    return arrays


def read_arrays(path: Path) -> npt.NDArray[np.generic] | Arrays:
    """Read ``.npy`` (an array) or ``.npz`` (arrays by name); pickled objects are refused.

    Raises:
        InputError: the file is missing, damaged or holds something else.
    """
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            return {name: content[name] for name in content.files}
    except FileNotFoundError as error:
        raise InputError(
            f"input file '{path}': found no such file, expected a .npy or .npz file of arrays; check the path"
        ) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"input file '{path}': found a damaged file or something else ({reason}), expected a .npy or .npz file of "
            "arrays; make or copy it again"
        ) from error


def _form(array: npt.NDArray[np.generic]) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"


def _wanted(port: Port) -> str:
    return f"{port.dtype}[{', '.join(['N', *map(str, port.shape)])}]"
