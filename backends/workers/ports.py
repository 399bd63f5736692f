"""Whether a worker shares its port with the supervisor's stand-in: told by an environment variable, set by us alone."""

from __future__ import annotations

import os

_SHARED = "SEAWALL_PORT_SHARED"
SHARED_ENV = {_SHARED: "1"}


def port_is_shared() -> bool:
    """Whether to listen with SO_REUSEPORT. By hand it is not set, so that two workers on one port are an error."""
    return os.environ.get(_SHARED) == "1"
