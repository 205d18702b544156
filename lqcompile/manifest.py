"""The manifest of an artifact: what is in it and what it needs, checked before anything is used.

Version 1, as JSON:

=========== ===========================================================================================================
format      1
lqcompile   version of lqcompile that built it
target      name of the target; ``machine`` and ``system`` are the architecture and operating system of the device
onnx        ``{"name", "bytes", "sha256"}`` of the model that it was built from
tools       tool name to version
inputs      ``[{"name", "shape", "dtype"}]``, shape of one sample, in order; ``outputs`` likewise
variants    ``[{"name", "requires": [features], "library", "params", "arena_bytes", "layers": [...]}]`` from the
            least to the most demanding; a layer is ``{"name", "op", "weight_bits", "act_bits", "kernel", "reason"}``
members     member name to ``{"bytes", "sha256"}``
sha256      of the manifest without this line
=========== ===========================================================================================================

Other keys are kept and ignored here: those that running takes, and what `lqcompile.facts` tells of layers and regions.
"""

from __future__ import annotations

from typing import Any

from lqcompile.errors import ArtifactError

FORMAT = 1
"""The newest format that this version writes and reads."""

Manifest = dict[str, Any]

_FILE = {"bytes": int, "sha256": str}
_VALUE = {"name": str, "shape": [int], "dtype": str}
_LAYER = {"name": str, "op": str, "weight_bits": int, "act_bits": int, "kernel": str, "reason": str}
_VARIANT = {
    "name": str,
    "requires": [str],
    "library": str,
    "params": str,
    "arena_bytes": int,
    "layers": [_LAYER],
}
_MANIFEST = {
    "format": int,
    "lqcompile": str,
    "target": str,
    "machine": str,
    "system": str,
    "onnx": {"name": str, **_FILE},
    "tools": dict,
    "inputs": [_VALUE],
    "outputs": [_VALUE],
    "variants": [_VARIANT],
    "members": dict,
    "sha256": str,
}


def check_manifest(manifest: object, subject: str) -> None:
    """Check that a manifest has every key, and each the right kind of value.

    Args:
        manifest: what the JSON holds.
        subject: the artifact, for messages.

    Raises:
        ArtifactError: it has another format, a key is missing or of the wrong kind, there is no variant, or a variant
            names a member that is not listed.
    """
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise ArtifactError(f"{subject}: found a manifest without a format number, expected format {FORMAT}")
    if manifest["format"] != FORMAT:
        remedy = "upgrade lqcompile" if manifest["format"] > FORMAT else "build the artifact again"
        raise ArtifactError(f"{subject}: found format {manifest['format']}, expected {FORMAT}; {remedy}")
    _check(manifest, _MANIFEST, "manifest", subject)
    for name, entry in manifest["members"].items():
        _check(entry, _FILE, f"members['{name}']", subject)
    if not manifest["variants"]:
        raise ArtifactError(f"{subject}: found no variants, expected at least one; build the artifact again")
    for variant in manifest["variants"]:
        for key in ("library", "params"):
            if variant[key] not in manifest["members"]:
                raise ArtifactError(
                    f"{subject}: found no member '{variant[key]}', expected it as {key} of variant "
                    f"'{variant['name']}'; build the artifact again"
                )


def _check(value: object, schema: Any, where: str, subject: str) -> None:
    """Compare a value with a schema: a type, a dict of keys, or a list of one schema."""
    kind = schema if isinstance(schema, type) else type(schema)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ArtifactError(f"{subject}: {where} is {value!r:.60}, expected {_KINDS[kind]}; build the artifact again")
    if isinstance(schema, list) and isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, schema[0], f"{where}[{index}]", subject)
    elif isinstance(schema, dict) and isinstance(value, dict):
        for key, inner in schema.items():
            if key not in value:
                raise ArtifactError(f"{subject}: {where} lacks '{key}'; build the artifact again")
            _check(value[key], inner, f"{where}.{key}", subject)


_KINDS = {int: "a whole number", str: "text", dict: "an object", list: "a list"}
