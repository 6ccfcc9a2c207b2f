"""Which addresses a target stands for: given ones, names that are resolved again and again, or a scheme left to gRPC."""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Resolver = Callable[[str, int], Iterable[str]]
_LEFT_TO_GRPC = ("unix", "unix-abstract", "vsock", "xds", "google-c2p")


def resolve_dns(name: str, port: int) -> list[str]:
    """The IP addresses of a name, by the system's resolver: IPv4 ones where there are any, else IPv6; OSError when there are none.

    One family only: a replica that has both would count, and be called, as two.
    """
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    by_family: dict[int, set[str]] = {}
    for family, _, _, _, address in found:
        by_family.setdefault(family, set()).add(str(address[0]))
    return sorted(by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or ())


@dataclass(frozen=True)
class Target:
    """What a target string stands for.

    given: the string itself.
    addresses: "1.2.3.4:50051", "[::1]:50051", or the whole target of a scheme that is left to gRPC.
    names: (name, port) to resolve.
    """

    given: str
    addresses: tuple[str, ...]
    names: tuple[tuple[str, int], ...] = ()

    def resolve(self, resolver: Resolver) -> list[str]:
        """All addresses now, each once, in a stable order. Raises what the resolver raises."""
        found = dict.fromkeys(self.addresses)
        for name, port in self.names:
            found.update(dict.fromkeys(_joined(ip, port) for ip in sorted(resolver(name, port))))
        return list(found)


def parse_target(target: str) -> Target:
    """Read "host:port", "host:port,host:port" (names or IP addresses), "ipv4:...", "ipv6:...", "dns:name:port", "dns:///name:port".

    "unix:...", "xds:..." and "dns://authority/name:port" are gRPC's to resolve: one replica as far as we can see.
    """
    if not target:
        raise ValueError("empty target: give host:port")
    scheme, _, rest = target.partition(":")
    if scheme in _LEFT_TO_GRPC:
        return Target(target, (target,))
    if scheme == "dns" and not rest.isdigit():
        if rest.startswith("//") and not rest.startswith("///"):
            return Target(target, (target,))
        parts = rest.lstrip("/")
    elif scheme in ("ipv4", "ipv6"):
        parts = rest.lstrip("/")
    else:
        parts = target
    addresses: list[str] = []
    names: list[tuple[str, int]] = []
    for part in parts.split(","):
        host, port = _host_and_port(part.strip(), target)
        if _is_ip(host):
            addresses.append(_joined(host, port))
        elif scheme in ("ipv4", "ipv6"):
            raise ValueError(f"{host!r} in target {target!r} is no IP address")
        else:
            names.append((host, port))
    return Target(target, tuple(dict.fromkeys(addresses)), tuple(dict.fromkeys(names)))


def grpc_target(address: str) -> str:
    """The gRPC target of one of a `Target`'s addresses."""
    host = address.rpartition(":")[0]
    if not _is_ip(host.strip("[]")):
        return address
    return f"ipv6:{address}" if host.startswith("[") else f"ipv4:{address}"


def _host_and_port(part: str, target: str) -> tuple[str, int]:
    host, colon, port = part.rpartition(":")
    if not colon or not port.isdigit() or not host or (":" in host and not host.startswith("[")):
        raise ValueError(f"{part!r} in target {target!r} is not host:port")
    return host.strip("[]"), int(port)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _joined(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
