"""What is installed, and that the tested versions are pinned."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
REQUIREMENTS = [
    Requirement(text)
    for group in (PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values())
    for text in group
]


def test_every_package_is_installed():
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "lqcompile").rglob("__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found | {"lqcompile.targets", "lqcompile.schedules"}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_requirement_is_pinned_to_a_version_that_it_allows(requirement):
    pins = {canonicalize_name(name): version for name, version in PINS.items()}
    assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_base_requirements_leave_torch_out():
    assert not {Requirement(text).name for text in PROJECT["project"]["dependencies"]} & {"torch", "onnxscript"}


def test_changelog_names_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(PROJECT['project']['version'])}\b", changelog, re.MULTILINE)


@pytest.mark.parametrize("path", ["scripts/install-system.sh", "scripts/emulated-board.sh", ".ci/run"])
def test_scripts_can_be_run(path):
    assert (ROOT / path).stat().st_mode & 0o100
