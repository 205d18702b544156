"""``HOST:PORT`` as people write it."""

from __future__ import annotations

from lqcompile.errors import DeviceError


def parse_address(text: str) -> tuple[str, int]:
    """Host name and port of ``HOST:PORT``; an IPv6 address stands in brackets.

    Example:
        >>> parse_address("raspberrypi.local:9090"), parse_address("[::1]:9190")
        (('raspberrypi.local', 9090), ('::1', 9190))

    Raises:
        DeviceError: it has another form.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not host or (":" in host and not bracketed) or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise DeviceError(f"address '{text}': expected HOST:PORT, such as 127.0.0.1:9090 or [::1]:9090")
    return host, int(port)
