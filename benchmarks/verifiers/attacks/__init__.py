"""Attempts to get out of the sandbox, to harm the server, or to pass without the answer: read from corpus/*.yaml and tried through gRPC.

An attack's program prints (or returns) what only a success could: the text ESCAPED, the content of a file of the host, or the expected
value, which is drawn anew for every try. A PASS is therefore an escape or a forgery, whatever the program did.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from rewardmesh.client import sample
from rewardmesh.v1 import common_pb2 as pb

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Attack:
    """One attempt.

    Attributes:
        family: the file it stands in.
        code: with @PLACEHOLDERS@.
        tests: how the program is tested: by its output, by a call, or by assertions.
        goal: what it prints when it succeeds: ESCAPED, the secret file's content, or the expected value.
        repeat: times it is tried in a row.
        own_kernel: why its success inside a sandbox with a kernel of its own does not reach the host; "" when it would.
    """

    family: str
    name: str
    code: str
    language: str = "python"
    tests: Literal["stdio", "call", "assertions"] = "stdio"
    goal: Literal["escape", "secret", "token"] = "escape"
    repeat: int = 1
    own_kernel: str = ""


@dataclass(frozen=True)
class Host:
    """What an attack could reach: a secret file, a folder that anybody may write to, sockets that listen, the server's process."""

    secret: str
    secret_path: Path
    folder: Path
    port: int
    abstract: str
    server_pid: int
    mark: str
    heard: list[str]
    """What has come in on the sockets."""


def attacks() -> list[Attack]:
    """The whole corpus."""
    return [Attack(file.stem, **fields) for file in sorted(CORPUS.glob("*.yaml")) for fields in yaml.safe_load(file.read_text())]


def attempt(attack: Attack, host: Host, number: int = 0) -> pb.Sample:
    """The sample that tries it."""
    token = f"TOKEN-{secrets.token_hex(8)}"
    code = attack.code
    for name, value in {
        "SECRET_PATH": host.secret_path,
        "SECRET": host.secret,
        "FOLDER": host.folder,
        "PORT": host.port,
        "ABSTRACT": host.abstract,
        "SERVER_PID": host.server_pid,
        "MARK": host.mark,
    }.items():
        code = code.replace(f"@{name}@", str(value))
    wanted = {"escape": "ESCAPED", "secret": host.secret, "token": token}[attack.goal if attack.tests == "stdio" else "token"]
    tests: dict[str, object] = {"language": attack.language}
    if attack.tests == "stdio":
        tests["tests"] = [{"stdin": "7\n", "stdout": wanted}]
    elif attack.tests == "call":
        tests["tests"] = [{"call": "answer", "args": [7], "expected": wanted}]
    else:
        tests |= {"assertions": f"assert answer(7) == {wanted!r}\nassert len(answer(7)) == {len(wanted)}", "entry_point": "answer"}
    fenced = code if "```" in code else f"```{attack.language}\n{code}\n```"
    return sample(f"{attack.family}/{attack.name}/{number}", "Write a program.", fenced, references=[json.dumps(tests)])


def honest(number: int = 0) -> pb.Sample:
    """A right program: what shows that the server is well."""
    tests = {"tests": [{"stdin": "7\n", "stdout": "49"}, {"stdin": "12\n", "stdout": "144"}]}
    return sample(f"honest/{number}", "Square it.", "```python\nprint(int(input()) ** 2)\n```", references=[json.dumps(tests)])


@contextmanager
def host(folder: Path, server_pid: int) -> Iterator[Host]:
    """A host with something to reach, and ears."""
    secret = f"SECRET-{secrets.token_hex(8)}"
    # A C string, so that a compiler may include it as well.
    secret_path = folder / "secret.txt"
    secret_path.write_text(f'"{secret}"')
    open_folder = folder / "open"
    open_folder.mkdir()
    for path in (*reversed(folder.parents[:2]), folder, open_folder):
        path.chmod(path.stat().st_mode | 0o755)
    open_folder.chmod(0o777)
    secret_path.chmod(0o644)
    heard: list[str] = []
    abstract = f"rewardmesh-{secrets.token_hex(6)}"
    tcp, udp, local = (
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX),
    )
    port = tcp.getsockname()[1]
    udp.bind(("127.0.0.1", port))
    local.bind(f"\0{abstract}")
    local.listen()
    for ear, kind in ((tcp, "tcp"), (udp, "udp"), (local, "unix")):
        threading.Thread(target=_listen, args=(ear, kind, heard), daemon=True).start()
    try:
        yield Host(f'"{secret}"', secret_path, open_folder, port, abstract, server_pid, f"mark{secrets.token_hex(4)}", heard)
    finally:
        for ear in (tcp, udp, local):
            ear.close()


def left_behind(host: Host) -> list[str]:
    """Traces of an attack on the host: processes that live on, files, connections."""
    traces = [f"wrote {path.name}" for path in host.folder.iterdir()] + [f"heard {kind}" for kind in host.heard]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if host.mark.encode() in path.read_bytes():
                traces.append(f"process {path.parent.name} lives on")
        except OSError:
            continue  # it has just ended
    if socket.gethostname() == host.mark:
        traces.append("the host has another name")
    return traces


def _listen(ear: socket.socket, kind: str, heard: list[str]) -> None:
    while True:
        try:
            if kind == "udp":
                ear.recv(16)
            else:
                ear.accept()
        except OSError:
            return  # closed
        heard.append(kind)
