"""A worker's port: its address, and whether the supervisor's stand-in shares it, which an environment variable tells
that is set by us alone."""

from __future__ import annotations

import os

_SHARED = "SEAWALL_PORT_SHARED"
SHARED_ENV = {_SHARED: "1"}


def port_is_shared() -> bool:
    """Whether to listen with SO_REUSEPORT. By hand it is not set, so that two workers on one port are an error."""
    return os.environ.get(_SHARED) == "1"


def base_url(host: str, port: int) -> str:
    """The address of a server there, with an IPv6 host in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
