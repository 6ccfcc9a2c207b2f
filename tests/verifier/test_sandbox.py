"""Sandboxes: what programs can see and use, how each limit shows, and that nothing is left of them. Under every runtime."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from rewardmesh.verifier.sandbox import programs
from rewardmesh.verifier.sandbox.inside import data
from rewardmesh.verifier.sandbox.limits import MIB, Ending, Limits, Run, SandboxError
from rewardmesh.verifier.sandbox.sandboxes import SandboxConfig, Sandboxes, open_sandboxes
from rewardmesh.verifier.sandbox.usage import usage_of
from sandbox_support import RUNTIMES, alive, require

pytestmark = pytest.mark.asyncio(loop_scope="module")
SMALL = Limits(cpu_s=1, wall_s=2, memory_bytes=96 * MIB, processes=16, output_bytes=10_000, file_bytes=MIB)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=RUNTIMES)
async def sandboxes(request: pytest.FixtureRequest) -> AsyncIterator[Sandboxes]:
    require(request.param)
    opened = await open_sandboxes(SandboxConfig(wanted=request.param, stock=2, disk_bytes=4 * MIB))
    yield opened
    await opened.close()


async def run(sandboxes: Sandboxes, code: str, stdin: bytes = b"", limits: Limits = SMALL) -> Run:
    async with sandboxes.box() as box:
        return await programs.script(box, code, stdin, limits)


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "it does not come to that"
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("print(input())", Ending.EXIT),
        ("import sys; sys.exit(3)", Ending.EXIT),
        ("while True: pass", Ending.CPU),
        ("import os\nfor _ in range(3): os.fork()\nwhile True: pass", Ending.CPU),
        ("import time; time.sleep(60)", Ending.WALL),
        ("import signal, time\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)", Ending.WALL),
        ("x = bytearray(2**31)", Ending.MEMORY),
        ("x = []\nwhile True: x.append(b'x' * 2**20)", Ending.MEMORY),
        ("import os\nfor _ in range(3): os.fork()\nx = []\nwhile True: x.append(b'x' * 2**18)", Ending.MEMORY),
        ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", Ending.PROCESSES),
        (
            "import threading as t, time\nfor _ in range(200): t.Thread(None, time.sleep, None, (30,), daemon=True).start()",
            Ending.PROCESSES,
        ),
        ("while True: print('x' * 1000)", Ending.OUTPUT),
        ("import os\nwhile True: os.write(2, b'x' * 1000)", Ending.OUTPUT),
        ("open('big', 'wb').write(bytes(2**21))", Ending.FILE_SIZE),
        ("for n in range(9): open(str(n), 'wb').write(bytes(2**20))", Ending.FILE_SIZE),
        ("import os, signal; os.kill(os.getppid(), signal.SIGKILL)", Ending.LOST),
    ],
)
async def test_every_limit_shows_in_the_ending(sandboxes: Sandboxes, code: str, ending: Ending) -> None:
    began = time.monotonic()
    # Other limits must not be met before this one, on a busy machine and under gVisor, which is slow.
    limits = replace(SMALL, cpu_s=1 if ending is Ending.CPU else 20, wall_s=2 if ending is Ending.WALL else 20)
    result = await run(sandboxes, code, b"hello\n", limits)
    assert result.ending is ending, result
    assert time.monotonic() - began < 15
    assert (await run(sandboxes, "print(6 * 7)")).stdout == b"42\n"


async def test_a_program_ends_as_any_other(sandboxes: Sandboxes) -> None:
    code = "import atexit, sys, threading\natexit.register(print, 'last')\nthreading.Timer(0.05, print, ['late']).start()\nsys.exit(3)"
    result = await run(sandboxes, f"{code}")
    assert (result.status, result.stdout) == (3, b"late\nlast\n")
    raised = await run(sandboxes, "def f():\n    return 1 / 0\n\nf()")
    assert raised.status == 1
    assert raised.report["error"] == "ZeroDivisionError"
    assert raised.report["line"] == 2
    assert b'"solution.py", line 2' in raised.stderr
    assert (await run(sandboxes, "import os; os.abort()")).status == -signal.SIGABRT


async def test_nothing_of_the_host_is_seen(sandboxes: Sandboxes) -> None:
    host = f"pids = {os.getpid(), os.getppid()}\nproject = {str(Path(__file__))!r}\n"
    code = """
import os, socket, sys
def tried(work):
    try: return work()
    except OSError as error: return type(error).__name__
print(os.getuid() != 0, set(os.environ) <= {"PATH", "LC_CTYPE", "HOME", "PWD", "MALLOC_ARENA_MAX"}, os.getcwd(), socket.gethostname())
print([path for path in ("/etc/shadow", "/etc/passwd", "/home", "/root", "/var", "/run", project) if os.path.exists(path)])
print([folder for folder in ("/", "/usr", "/agent", "/usr/lib") if os.access(folder, os.W_OK)])
print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit()) if os.path.exists("/proc") else [])
print(tried(lambda: socket.create_connection(("127.0.0.1", 1), 0.5)), tried(lambda: socket.create_connection(("1.1.1.1", 53), 0.5)))
print(tried(lambda: os.setuid(0)), tried(lambda: os.chroot("/work")), tried(lambda: os.open("/dev/mem", os.O_RDONLY)))
print([pid for pid in pids if pid > 100 and tried(lambda: os.kill(pid, 0)) is None])
"""
    lines = (await run(sandboxes, host + code)).stdout.decode().splitlines()
    assert lines[0] == "True True /work sandbox"
    assert lines[1] == "[]"
    assert lines[2] == "[]"
    assert all(pid < 10 for pid in eval(lines[3]))
    assert all(word.endswith("Error") for word in [*lines[4].split(), *lines[5].split()])
    assert lines[6] == "[]"


async def test_dangerous_system_calls_are_denied(sandboxes: Sandboxes) -> None:
    code = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def code(number, *arguments):
    ctypes.set_errno(0)
    return errno.errorcode.get(ctypes.get_errno(), "none") if libc.syscall(number, *arguments) < 0 else "allowed"
# ptrace, mount, unshare(NEWUSER), bpf, perf_event_open, userfaultfd, keyctl, io_uring_setup, init_module, process_vm_readv
print(*[code(101, 16, 1), code(165, 0, 0, 0, 0, 0), code(272, 0x10000000), code(321, 0, 0, 0), code(298, 0, 0, 0, 0, 0)])
print(*[code(323, 0), code(250, 0, 0, 0, 0, 0), code(425, 1, 0), code(175, 0, 0, 0), code(310, 1, 0, 0, 0, 0, 0)])
import socket
def tried(family):
    try: socket.socket(family, socket.SOCK_STREAM); return "allowed"
    except OSError: return "denied"
print(tried(40), tried(16), tried(socket.AF_UNIX))
"""
    result = await run(sandboxes, code)
    words = result.stdout.decode().split()
    if sandboxes.name == "gvisor":
        # A namespace of gVisor's own kernel is none of the host's.
        del words[2]
    assert "allowed" not in words[:-1], result
    assert words[-1] == "allowed"


async def test_a_run_leaves_nothing_for_the_next(sandboxes: Sandboxes) -> None:
    async with sandboxes.box() as box:
        child = "import os, time\nif not os.fork():\n    os.setsid()\n    time.sleep(1)\n    open('late', 'w').write('x')"
        assert (await programs.script(box, child, b"", SMALL)).ending is Ending.EXIT
        code = "import os, sys, time\ntime.sleep(1.2)\nprint(os.path.exists('late'), 'stray' in dir(sys))\nsys.stray = 1"
        for _ in range(2):
            assert (await programs.script(box, code, b"", SMALL)).stdout == b"False False\n"


async def test_values_of_calls_are_data(sandboxes: Sandboxes) -> None:
    code = """
class Sly(list):
    def __iter__(self): return iter(["sly"])
    def __eq__(self, other): return True
def give(x, *, y=None): return (x, Sly([y]), {1: {2, 3}, "n": float("nan")}, b"x", 2**200, frozenset(), 1 + 2j, range(3))
def bad(): return object()
class Solution:
    def inc(self, x): return x + 1
"""
    async with sandboxes.box() as box:
        result = await programs.call(box, code, "give", ([(1, None)], {"y": {"k": [True]}}), SMALL)
        value = data.decode(result.report["value"])
        assert value[0] == (1, None)
        assert value[1] == [{"k": [True]}]
        assert value[2][1] == {2, 3}
        assert value[2]["n"] != value[2]["n"]
        assert value[3:] == (b"x", 2**200, frozenset(), 1 + 2j, range(3))
        assert (await programs.call(box, code, "bad", ([], {}), SMALL)).report["error"] == "NotData"
        assert (await programs.call(box, code, "inc", ([4], {}), SMALL)).report["value"] == 5
        missing = await programs.call(box, code, "nope", ([], {}), SMALL)
        assert missing.report["message"] == "name 'nope' is not defined"


async def test_a_cancelled_run_leaves_no_process(sandboxes: Sandboxes) -> None:
    pids: list[int] = []

    async def long() -> None:
        async with sandboxes.box() as box:
            pids.append(box.pid)
            await programs.script(box, "import os, time\nos.fork()\ntime.sleep(50)", b"", Limits(wall_s=60))

    task = asyncio.create_task(long())
    await until(lambda: bool(pids) and len(usage_of(pids[0]).pids) >= 3)
    pids = list(usage_of(pids[0]).pids)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not any(map(alive, pids)))


async def test_a_box_that_is_killed_from_outside_is_infrastructure(sandboxes: Sandboxes) -> None:
    async with sandboxes.box() as box:
        task = asyncio.create_task(programs.script(box, "import time; time.sleep(20)", b"", Limits(wall_s=30)))
        await asyncio.sleep(0.3)
        os.kill(box.pid, signal.SIGKILL)
        with pytest.raises(SandboxError, match="killed from outside"):
            await task
    assert (await run(sandboxes, "print(1)")).stdout == b"1\n"


async def test_boxes_are_replaced_and_closed(sandboxes: Sandboxes) -> None:
    opened = await open_sandboxes(replace(sandboxes.config, stock=2))
    seen = set()
    for _ in range(3):
        async with opened.box() as box:
            seen.add(box.pid)
    assert len(seen) == 3
    pids = opened.pids
    await opened.close()
    assert not any(map(alive, [*pids, *seen]))
    with pytest.raises(SandboxError, match="stopping"):
        async with opened.box():
            pass


async def test_sandboxes_outlive_no_killed_server(sandboxes: Sandboxes) -> None:
    program = f"""
import asyncio
from rewardmesh.verifier.sandbox import programs
from rewardmesh.verifier.sandbox.limits import Limits
from rewardmesh.verifier.sandbox.sandboxes import SandboxConfig, open_sandboxes

async def main():
    opened = await open_sandboxes(SandboxConfig(wanted={sandboxes.name!r}, stock=1))
    async with opened.box() as box:
        print(box.pid, flush=True)
        await programs.script(box, "import os, time\\nos.setsid() if not os.fork() else 0\\ntime.sleep(99)", b"", Limits(wall_s=99))

asyncio.run(main())
"""
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert server.stdout
    pid = 0
    while not pid:
        line = await server.stdout.readline()
        pid = int(line) if line.strip().isdigit() else 0
    await until(lambda: len(usage_of(pid).pids) >= 3)
    pids = usage_of(pid).pids
    server.kill()
    await server.wait()
    await until(lambda: not any(map(alive, pids)))
