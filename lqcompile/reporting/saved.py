"""Reading what ``lqcompile profile --json``, ``verify --json`` and ``bench --json`` wrote, and refusing other files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lqcompile.errors import InputError
from lqcompile.profiling.profile import FORMAT, KEY

_TIME = {"median_us": float, "p10_us": float, "p90_us": float, "least_us": float}

_SIZES = {"parameters": int, "read": int, "written": int, "scratch": int}

_LAYER = {
    "name": str,
    "op": str,
    "fused": [str],
    "time": _TIME,
    "share": float,
    "bytes": _SIZES,
    "footprint_bytes": int,
    "footprint_level": (str, None),
    "work": (dict, None),
}

_WORK = {
    "kernel": str,
    "loop": str,
    "reason": str,
    "alternatives_from": (str, None),
    "alternatives": [{"kernel": str, "times": float, "us": (float, None)}],
    "weight_bits": int,
    "act_bits": int,
    "kernel_size": [int, int],
    "in_shape": [int, int, int],
    "out_shape": [int, int, int],
    "group": int,
    "macs": int,
    "bit_operations": int,
    "macs_per_s": (float, None),
    "bit_operations_per_s": (float, None),
    "weights": int,
    "packed_bytes": int,
    "bound": ({"us": float, "by": str}, None),
    "fraction_of_bound": (float, None),
}

_STATE = {
    "clock_mhz": ([int], None),
    "governor": (str, None),
    "temperature_c": (float, None),
    "throttled": (str, None),
}

_PROFILE = {
    "artifact": {
        "file": str,
        "bytes": int,
        "variant": str,
        "target": str,
        "lqcompile": str,
        "onnx": {"name": str, "bytes": int, "sha256": str},
        "tools": {str: str},
    },
    "machine": {
        "name": str,
        "cpu": str,
        "machine": str,
        "system": str,
        "cores": int,
        "features": [str],
        "emulator": (str, None),
        "versions": {str: str},
        "clock_hz": float,
        "caches": [{"level": int, "bytes": int, "cores": int}],
        "bytes_per_s": {str: float},
        "os": str,
    },
    "conditions": {"before": _STATE, "after": _STATE},
    "threads": int,
    "samples": int,
    "settled": bool,
    "whole": {"median_ms": float, "p10_ms": float, "p90_ms": float, "uncertainty": float, "readings": int},
    "call_us": float,
    "interruptions_us": float,
    "unaccounted_us": float,
    "layers": [_LAYER],
    "totals": {
        "macs": int,
        "bit_operations": int,
        "macs_per_s": float,
        "bit_operations_per_s": float,
        "bounded_us": float,
        "bound_us": float,
        "fraction_of_bound": (float, None),
    },
    "size": {
        "float32_bytes": int,
        "int8_bytes": int,
        "packed_bytes": int,
        "parameter_bytes": int,
        "arena_bytes": int,
    },
}

_VERIFICATION = {
    "passed": bool,
    "reference": str,
    "forced": {
        "layers": int,
        "codes": int,
        "mismatches": int,
        "near_threshold": int,
        "integers": int,
        "integer_mismatches": int,
        "floats": int,
        "float_mismatches": int,
    },
    "free": {"samples": int, "top1_agreement": float, "outputs": int, "output_mismatches": int},
}

_BENCH = {"median_ms": float, "threads": int, "batch": int, "cpu": str, "against": dict}


def read_profile(path: Path) -> dict[str, Any]:
    """What ``lqcompile profile --json`` wrote.

    Raises:
        InputError: the file cannot be read, is no JSON, or is no profile of this format.
    """
    remedy = "give an artifact, or what 'lqcompile profile ARTIFACT --json' printed"
    found = _read(path, "profile", remedy)
    if KEY not in found:
        raise InputError(f"profile '{path}': found JSON without the key '{KEY}', expected a saved profile; {remedy}")
    if found[KEY] != FORMAT:
        raise InputError(
            f"profile '{path}': found format {found[KEY]}, expected {FORMAT}; profile it again with this version"
        )
    _check(found, _PROFILE, "profile", f"profile '{path}'", remedy)
    speeds = found["machine"]["bytes_per_s"]
    for key, held in (("layers", found["layers"]), ("machine.bytes_per_s", speeds)):
        if not held:
            raise InputError(f"profile '{path}': found nothing in {key}, expected at least one entry; {remedy}")
    positive = {"whole.median_ms": found["whole"]["median_ms"], "machine.clock_hz": found["machine"]["clock_hz"]}
    positive |= {"threads": found["threads"], "machine.bytes_per_s": min(speeds.values())}
    for key, value in positive.items():
        if value <= 0:
            raise InputError(f"profile '{path}': {key} is {value}, expected more than 0; {remedy}")
    for index, layer in enumerate(found["layers"]):
        if layer["work"] is not None:
            _check(layer["work"], _WORK, f"layers[{index}].work", f"profile '{path}'", remedy)
    return found


def read_verification(path: Path) -> dict[str, Any]:
    """What ``lqcompile verify --json`` wrote.

    Raises:
        InputError: the file cannot be read, is no JSON, or is no report of ``verify``.
    """
    remedy = "give what 'lqcompile verify MODEL --artifact ARTIFACT --json' printed"
    found = _read(path, "verification", remedy)
    _check(found, _VERIFICATION, "report", f"verification '{path}'", remedy)
    if "accuracy" in found:
        accuracy = {"reference": float, "compiled": float}
        _check(found["accuracy"], accuracy, "report.accuracy", f"verification '{path}'", remedy)
    return found


def read_bench(path: Path) -> dict[str, Any]:
    """What ``lqcompile bench --json`` wrote.

    Raises:
        InputError: the file cannot be read, is no JSON, or is no report of ``bench``.
    """
    remedy = "give what 'lqcompile bench MODEL --artifact ARTIFACT --json' printed"
    found = _read(path, "bench", remedy)
    _check(found, _BENCH, "report", f"bench '{path}'", remedy)
    for name, peer in found["against"].items():
        _check(peer, {"median_ms": float, "ratio": float}, f"against['{name}']", f"bench '{path}'", remedy)
    return found


def _read(path: Path, what: str, remedy: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{what} '{path}': found {reason}, expected a readable file; {remedy}") from error
    except ValueError as error:
        raise InputError(f"{what} '{path}': found no JSON ({error}), expected a saved report; {remedy}") from error
    if not isinstance(found, dict):
        raise InputError(f"{what} '{path}': found no JSON object, expected a saved report; {remedy}")
    return found


def _check(value: Any, schema: Any, where: str, subject: str, remedy: str) -> None:
    """Compare a value with a schema: a type, keys and their schemas, or a list of one schema.

    ``(schema, None)`` stands for that or None, ``{str: schema}`` for any keys, several schemas in a list for as many
    items.
    """
    if isinstance(schema, tuple):
        if value is not None:
            _check(value, schema[0], where, subject, remedy)
        return
    kind = schema if isinstance(schema, type) else type(schema)
    fitting = (int, float) if kind is float else kind
    if not isinstance(value, fitting) or (kind in (int, float) and isinstance(value, bool)):
        raise InputError(f"{subject}: {where} is {value!r:.40}, expected {_KINDS[kind]}; {remedy}")
    if isinstance(schema, list) and isinstance(value, list):
        if len(schema) > 1 and len(value) != len(schema):
            raise InputError(f"{subject}: {where} has {len(value)} items, expected {len(schema)}; {remedy}")
        for index, item in enumerate(value):
            _check(item, schema[0], f"{where}[{index}]", subject, remedy)
    elif isinstance(schema, Mapping) and isinstance(value, dict):
        keys = dict.fromkeys(value, schema[str]) if str in schema else schema
        for key, inner in keys.items():
            if key not in value:
                raise InputError(f"{subject}: {where} lacks '{key}'; {remedy}")
            _check(value[key], inner, f"{where}.{key}", subject, remedy)


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "an object",
    list: "a list",
}
