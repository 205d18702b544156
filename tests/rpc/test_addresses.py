"""Addresses as people write them."""

import pytest

from lqcompile.errors import DeviceError
from lqcompile.rpc.addresses import parse_address


@pytest.mark.parametrize(
    "text", ["9090", "host", "host:", ":9090", "host:http", "host:65536", "::1:9090", "[]:1", "h:²"]
)
def test_what_is_no_address(text):
    with pytest.raises(DeviceError, match=r"^address '.*': expected HOST:PORT, such as 127\.0\.0\.1:9090"):
        parse_address(text)
