"""Reading recipe files, and the recipes that ship with lqcompile."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lqcompile.errors import TrainingError
from lqcompile.training.recipe import Recipe

FOLDER = Path(__file__).with_name("recipes")
"""Where the shipped recipes are."""


def names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a TOML file, or the name of a shipped recipe.
        overrides: ``key=value`` with the section in front of the key, such as ``optimizer.lr=0.01``; values as in TOML,
            quotes may be left out.

    Raises:
        TrainingError: there is no such file or recipe, it is not TOML, or a key is unknown, missing, of a wrong type or
            out of range.
    """
    path = _find(source)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TrainingError(f"recipe '{path}': found no TOML ({error}), expected a recipe; correct the file") from error
    for override in overrides:
        _apply(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise TrainingError(f"recipe '{path}': {_explain(error)}") from error


def _find(source: str | Path) -> Path:
    """The file itself, or the shipped recipe of this name."""
    path = Path(source)
    if path.is_file():
        return path
    shipped = FOLDER / f"{source}.toml"
    if path.name == str(source) and shipped.is_file():
        return shipped
    raise TrainingError(
        f"recipe '{source}': found neither a file nor a recipe of this name; known recipes: {', '.join(names())}"
    )


def _apply(content: dict[str, Any], override: str) -> None:
    """Set one key of the parsed file."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise TrainingError(f"--set {override}: found no key=value, expected one, such as optimizer.lr=0.01")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, last = key.strip().split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise TrainingError(
                f"--set {override}: found that '{section}' is a value, expected a section of the recipe"
            )
    content[last] = value


def _explain(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: key, found, expected."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "recipe"
    found, context = first["input"], first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        return f"found unknown key '{key}', expected one of {', '.join(_keys(first['loc']))}"
    if first["type"] == "missing":
        return f"found no '{key}', expected one; add it"
    if first["type"] == "value_error":
        return f"{'' if key == 'recipe' else key + ': '}{context['error']}"
    message = first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"found {key} = {found!r}, expected {message}"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys that the section around `location` knows."""
    section: Any = Recipe
    for part in location[:-1]:
        annotation = section.model_fields[part].annotation
        members = getattr(annotation, "__args__", (annotation,))
        section = next(member for member in members if hasattr(member, "model_fields"))
    return sorted(section.model_fields)
