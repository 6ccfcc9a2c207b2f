"""What a target string stands for."""

import socket

import pytest

from rewardmesh.client import ChannelOptions
from rewardmesh.client.balancing import resolve_dns
from rewardmesh.client.balancing.targets import grpc_target, parse_target


@pytest.mark.parametrize(
    ("target", "addresses", "names"),
    [
        ("10.0.0.1:1", ["10.0.0.1:1"], []),
        ("10.0.0.1:1, 10.0.0.2:2", ["10.0.0.1:1", "10.0.0.2:2"], []),
        ("10.0.0.1:1,10.0.0.1:1", ["10.0.0.1:1"], []),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", ["10.0.0.1:1", "10.0.0.2:1"], []),
        ("ipv6:[::1]:1,[::2]:2", ["[::1]:1", "[::2]:2"], []),
        ("[::1]:1,10.0.0.1:1", ["[::1]:1", "10.0.0.1:1"], []),
        ("scorer:50051", [], [("scorer", 50051)]),
        ("dns:50051", [], [("dns", 50051)]),
        ("dns:scorer:50051", [], [("scorer", 50051)]),
        ("dns:///scorer:50051", [], [("scorer", 50051)]),
        ("a.example:1,10.0.0.1:1,b.example:2", ["10.0.0.1:1"], [("a.example", 1), ("b.example", 2)]),
        ("dns://8.8.8.8/scorer:50051", ["dns://8.8.8.8/scorer:50051"], []),
        ("unix:/tmp/socket", ["unix:/tmp/socket"], []),
        ("xds:///scorer", ["xds:///scorer"], []),
    ],
)
def test_targets(target: str, addresses: list[str], names: list[tuple[str, int]]) -> None:
    parsed = parse_target(target)
    assert (list(parsed.addresses), list(parsed.names)) == (addresses, names)


@pytest.mark.parametrize("target", ["", "scorer", "10.0.0.1,10.0.0.2", "10.0.0.1:1,", "::1:50051", "ipv4:scorer:1", "scorer:http", ":1"])
def test_unusable_targets_are_refused(target: str) -> None:
    with pytest.raises(ValueError):
        parse_target(target)


def test_resolving_keeps_given_addresses_and_order() -> None:
    target = parse_target("scorer:5,10.0.0.9:5")
    assert target.resolve(lambda name, port: ["10.0.0.2", "10.0.0.1", "10.0.0.9", "::1"]) == [
        "10.0.0.9:5",
        "10.0.0.1:5",
        "10.0.0.2:5",
        "[::1]:5",
    ]


def test_grpc_targets() -> None:
    assert grpc_target("10.0.0.1:1") == "ipv4:10.0.0.1:1"
    assert grpc_target("[::1]:1") == "ipv6:[::1]:1"
    assert grpc_target("unix:/tmp/socket") == "unix:/tmp/socket"


def test_one_family_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 5, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 5)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 5)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: both)
    assert resolve_dns("scorer", 5) == ["127.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: both[:1])
    assert resolve_dns("scorer", 5) == ["::1"]


@pytest.mark.parametrize(
    "wrong",
    [{"max_attempts": 0}, {"eject_after": 0}, {"stream_window": 0}, {"ejection_s": 0.0}, {"retry_budget": -1}, {"hedge_multiple": 0.0}],
)
def test_options_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ChannelOptions(**wrong)  # type: ignore[arg-type]
