"""The first program in a sandbox: starts programs, bounds each of them, and says how they ended.

Nothing the server does relies on its honesty: code under test runs under the same user and may kill or impersonate it. The server
therefore compares all results itself, and has limits of its own around the sandbox.

Operations: `put` writes a file; `get` reads one; `exec` runs a command; `script` and `call` run Python in a fork of this interpreter,
which saves its start; `candidate` and `referee` turn the whole process into one side of a test script (see their modules).
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # what signal wraps in enumerations, whose import costs more than the agent
import os
import resource
import select
import sys
import time

from rewardmesh.verifier.sandbox.inside import frames, running

TYPE_CHECKING = False  # typing's own would have to be imported, which costs more than all else here
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Child = Callable[[], None]

READ_BYTES = 2**16


_alone = False
"""Whether this is the first or second process of a process namespace, in which everything else may be killed."""


def main(alone: bool) -> None:
    """Serve until the server closes, or until this is the forked child that has a program to run."""
    global _alone
    _alone = alone and os.getpid() <= 2
    # It has done its work: the C library has read it.
    os.environ.pop("MALLOC_ARENA_MAX", None)
    channel = _take_channel()
    channel.send({"op": "ready", "version": list(sys.version_info[:3])})
    child = _serve(channel)
    if child is not None:
        # Back at the top of the stack: the program ends as any other does, with its threads joined and its buffers flushed.
        child()


def _take_channel() -> frames.Channel:
    """The server's end stands on 0 and 1; programs must find neither."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    return frames.Channel(source, sink)


def _serve(channel: frames.Channel) -> Child | None:
    while (frame := channel.receive()) is not None:
        header, blobs = frame
        match header["op"]:
            case "put":
                try:
                    with open(header["path"], "wb") as file:
                        os.chmod(file.fileno(), header["mode"])
                        file.write(blobs[0])
                    channel.send({"op": "done"})
                except OSError as error:
                    channel.send({"op": "failed", "detail": str(error)})
            case "get":
                try:
                    with open(header["path"], "rb") as file:
                        channel.send({"op": "done"}, file.read(header["most"]))
                except OSError as error:
                    channel.send({"op": "failed", "detail": str(error)})
            case "exec" | "script" | "call":
                child = _run(channel, header, blobs)
                if child is not None:
                    return child
            case "candidate":
                from rewardmesh.verifier.sandbox.inside import candidate

                _limit(header["limits"])
                candidate.serve(channel, blobs[0].decode("utf-8", "surrogatepass"))
                return None
            case "referee":
                from rewardmesh.verifier.sandbox.inside import referee

                _limit(header["limits"])
                referee.serve(channel, header, blobs[0].decode("utf-8", "surrogatepass"))
                return None
    return None


def _run(channel: frames.Channel, header: dict[str, Any], blobs: list[bytes]) -> Child | None:
    """Run one program; returns in the child what it has to do, and in the agent nothing."""
    limits = header["limits"]
    stdin = _file_of(blobs[0])
    pipes = [os.pipe() for _ in range(3)]
    began = time.monotonic()
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        os.dup2(stdin, 0)
        os.dup2(pipes[0][1], 1)
        os.dup2(pipes[1][1], 2)
        report = os.dup(pipes[2][1])
        for number in (stdin, told, tell, channel.source, channel.sink, *pipes[0], *pipes[1], *pipes[2]):
            os.close(number)
        _limit(limits)
        if header["op"] == "exec":
            os.set_inheritable(report, True)
            return lambda: _exec(header["argv"], {**header["env"], "REPORT_FD": str(report)})
        code = blobs[1].decode("utf-8", "surrogatepass")
        if header["op"] == "script":
            return lambda: running.script(code, report)
        return lambda: running.call(code, header["name"], blobs[2], report)
    os.close(stdin)
    for pipe in pipes:
        os.close(pipe[1])
    # What a program writes to its report is bounded as its output is.
    ending, outputs = _attend(pid, told, [pipe[0] for pipe in pipes], limits)
    ended = time.monotonic()
    _end_all_others(pid)
    _, status, used = os.wait4(pid, 0)
    signal.set_wakeup_fd(-1)
    for number in (told, tell, *(pipe[0] for pipe in pipes)):
        os.close(number)
    channel.send(
        {
            "op": "ended",
            "ending": ending,
            "status": os.waitstatus_to_exitcode(status),
            "cpu_s": used.ru_utime + used.ru_stime,
            "wall_s": ended - began,
        },
        *outputs,
    )
    return None


def _file_of(content: bytes) -> int:
    """A descriptor from which `content` can be read; the file has no name any more."""
    path = f".stdin-{os.getpid()}"
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(number, rest) :]
    os.lseek(number, 0, os.SEEK_SET)
    return number


def _limit(limits: dict[str, Any]) -> None:
    cpu = max(1, int(-(-limits["cpu_s"] // 1)))
    for what, least, most in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, limits["address_bytes"], limits["address_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"], limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"], limits["open_files"]),
        (resource.RLIMIT_NPROC, limits["tasks"], limits["tasks"]),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        if least:
            resource.setrlimit(what, (least, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _exec(argv: list[str], environment: dict[str, str]) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execve(argv[0], argv, environment)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error}\n".encode())
        os._exit(127)


def _attend(pid: int, told: int, sources: list[int], limits: dict[str, Any]) -> tuple[str, list[bytes]]:
    """Read what a program writes until it ends or is beyond its wall time or output; the ending is "", "wall" or "output"."""
    deadline = time.monotonic() + limits["wall_s"]
    most = limits["output_bytes"]
    outputs = {source: bytearray() for source in sources}
    poll = select.poll()
    for number in (*sources, told):
        os.set_blocking(number, False)
        poll.register(number, select.POLLIN)
    ending = ""
    while not ending:
        remaining = deadline - time.monotonic()
        ready = {number for number, _ in poll.poll(max(0.0, 1000 * remaining))}
        if remaining <= 0:
            ending = "wall"
        # Signals of other children come here too.
        over = told in ready and os.read(told, READ_BYTES) and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        for number in ready - {told}:
            if not _drain(number, outputs[number], most):
                poll.unregister(number)
        if over:
            # A background process may hold the pipes open: what is in them now is all that counts.
            for source, output in outputs.items():
                while len(output) <= most and _drain(source, output, most):
                    pass
        if any(len(output) > most for output in outputs.values()):
            ending = "output"
        elif over:
            break
    return ending, [bytes(output[:most]) for output in outputs.values()]


def _drain(source: int, into: bytearray, most: int) -> bool:
    """Read once; False at the end, or when there is nothing now."""
    try:
        part = os.read(source, min(READ_BYTES, most + 1 - len(into)) or 1)
    except BlockingIOError:
        return False
    into += part
    return bool(part)


def _end_all_others(pid: int) -> None:
    """Kill the program and all that it has started."""
    if _alone:
        # -1 is everything but init and this process.
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
    else:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
