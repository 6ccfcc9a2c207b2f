"""Free ports on this machine, picked before a server starts so that others can be told."""

from __future__ import annotations

import random
import socket

# Below the ports that systems give to outgoing connections: one of those could take the port while its server restarts, and a client
# that tries to reach the dead server from it would even connect to itself.
_FIRST, _LAST = 20000, 29999


def free_port(host: str, avoid: set[int]) -> int:
    """A port nobody listens on, added to `avoid`; OSError when there seems to be none."""
    for _ in range(1000):
        port = random.randint(_FIRST, _LAST)
        if port not in avoid and is_free(host, port):
            avoid.add(port)
            return port
    raise OSError(f"no free port from {_FIRST} to {_LAST} on {host}")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
