"""The GPU of this machine: ``make test-gpu`` needs one, and other runs skip these tests without."""

from __future__ import annotations

import os

import pytest

from lqcompile.cuda.driver import Gpu
from lqcompile.errors import DeviceError


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    try:
        return Gpu()
    except DeviceError as error:
        if os.environ.get("LQCOMPILE_TEST_GPU"):
            pytest.exit(str(error), returncode=1)
        pytest.skip(str(error))
