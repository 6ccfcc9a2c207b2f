"""The code verifier on the wire, under every runtime: kinds of tests, categories, locations, and what a program cannot forge."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.v1.verifier_service_pb2_grpc import VerifierServiceStub
from rewardmesh.verifier import Config, create_server
from rewardmesh.verifier.sandbox.languages import Missing, find_languages
from rewardmesh.verifier.sandbox.usage import usage_of
from sandbox_support import RUNTIMES, alive, require

pytestmark = pytest.mark.asyncio(loop_scope="module")
Judge = Callable[..., Awaitable[verifier_pb.VerdictOutcome]]
DOUBLE = {"tests": [{"call": "f", "args": [2], "expected": 4}, {"call": "f", "args": [-1], "expected": -2}]}
FORGED = b'{"op": "judged", "end": "reached", "steps": [[1, true, "", 0]], "asserts": 1, "blobs": []}'
ECHO = {"tests": [{"stdin": "4\n", "stdout": "8"}, {"stdin": "5", "stdout": "10\n"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=RUNTIMES)
async def stub(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    require(request.param)
    server = await create_server(Config(workers=1, port=0, sandbox=request.param, sandbox_slots=2, replica=request.param))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield VerifierServiceStub(channel)
    await server.stop()


def request_of(*programs: str, reference: Any, **options: Any) -> verifier_pb.VerifyRequest:
    text = reference if isinstance(reference, str) else json.dumps(reference)
    samples = [pb.Sample(id=str(n), completion=pb.Completion(text=program), references=[text]) for n, program in enumerate(programs)]
    request = verifier_pb.VerifyRequest(verifier="code", samples=samples)
    request.options.update(options)
    return request


@pytest.fixture
def judge(stub: Any) -> Judge:
    async def ask(program: str, reference: Any, **options: Any) -> verifier_pb.VerdictOutcome:
        response = await stub.Verify(request_of(program, reference=reference, **options), timeout=60)
        return response.outcomes[0]  # type: ignore[no-any-return]

    return ask


def told(outcome: verifier_pb.VerdictOutcome) -> str:
    """ "pass", "fail CATEGORY LINE", "partial SCORE CATEGORY LINE", or the reason of the absence."""
    if outcome.HasField("absence"):
        return pb.AbsenceReason.Name(outcome.absence.reason).removeprefix("ABSENCE_REASON_")
    verdict = outcome.verdict
    status = verifier_pb.VerdictStatus.Name(verdict.status).removeprefix("VERDICT_STATUS_").lower()
    score = f" {verdict.score:.2g}" if status == "partial" else ""
    where = f" {verdict.location.line}" if verdict.HasField("location") else ""
    return f"{status}{score}{' ' if verdict.category else ''}{verdict.category}{where}"


@pytest.mark.parametrize(
    ("program", "reference", "expected"),
    [
        ("print(int(input()) * 2)", ECHO, "pass"),
        ("print(int(input()) + 4)", ECHO, "partial 0.5 wrong-answer"),
        ("print(8)\n\n1 / 0", ECHO, "fail runtime 3"),
        ("Here:\n```python\ndef f(x):\n    return 2 * x\n```", DOUBLE, "pass"),
        ("```python\ndef f(x):\n    return abs(2 * x)\n```", DOUBLE, "partial 0.5 wrong-answer"),
        ("```python\ndef f(x):\n    y = x\n    return y.z\n```", DOUBLE, "fail runtime 4"),
        ("```python\ndef f(x:\n    return x\n```", DOUBLE, "fail syntax 2"),
        ("def g(x): return x", DOUBLE, "fail missing"),
        ("", DOUBLE, "fail missing"),
        ("class Solution:\n    def f(self, x): return 2 * x", DOUBLE, "pass"),
        ("def f(x): return x + x", "assert f(2) == 4\nassert f('a') == 'aa'", "pass"),
        ("def f(x): return 4", "assert f(2) == 4\nassert f(3) == 6\nassert f(4) == 8\nassert f(2) == 4", "partial 0.5 wrong-answer"),
        ("def f(x):\n    raise KeyError(x)", "assert f(2) == 4", "fail runtime 2"),
        (
            "def f(x): raise ValueError('no')",
            "try:\n  f(1)\n  assert False\nexcept ValueError as e:\n  assert str(e) == 'no'",
            "pass",
        ),
        ("class No(Exception): pass\ndef f(): raise No", "try:\n    f()\n    assert False\nexcept No:\n    assert True", "pass"),
        ("def f(x): x.sort()", "x = [2, 1]\nf(x)\nassert x == [1, 2]", "pass"),
        ("def f(n): yield from range(n)", "assert list(f(3)) == [0, 1, 2]", "pass"),
        (
            "from fractions import Fraction as F\ndef f(): return F(1, 2)",
            "import fractions\nassert f() == fractions.Fraction(2, 4)",
            "pass",
        ),
        ("def f(g): return g(1)", "assert f(lambda x: x) == 1", "NOT_APPLICABLE"),
        ("def f(x): return x", ["assert f(1) == 1", "assert f(2) == 2"], "pass"),
        ("    return x * 2", {"prefix": "def f(x):", **DOUBLE}, "pass"),
        ("    return x * y", {"prefix": "def f(x):", **DOUBLE}, "fail runtime 1"),
        (
            "def add(a, b): return a + b",
            {"assertions": "def check(candidate):\n  assert candidate(1, 2) == 3", "entry_point": "add"},
            "pass",
        ),
        ("def f(a, b): return a", {"inputs": [[1, 2], [3, 4]], "outputs": [1, 4], "fn_name": "f"}, "partial 0.5 wrong-answer"),
        ("def f(x): return 0.1 + 0.2", {"tests": [{"call": "f", "args": [1], "expected": 0.3}]}, "pass"),
    ],
)
async def test_python(judge: Judge, program: str, reference: Any, expected: str) -> None:
    assert told(await judge(program, reference)) == expected


STACK = """
class Stack:
    def __init__(self, *items): self.items = list(items)
    def push(self, item): self.items.append(item); return self
    def pop(self): return self.items.pop()
    def __len__(self): return len(self.items)
    def __getitem__(self, n): return self.items[n]
    def __eq__(self, other): return True
    def __add__(self, other): return Stack(*self.items, *other.items)
    def __contains__(self, other): return True
    def __sub__(self, other): return 0
    __rsub__ = __sub__
"""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "s = Stack(1)\nassert len(s) == 1 and s[0] == 1\nassert s.push(2)\nassert s.pop() == 2\nassert s.items == [1]",
            "pass",
        ),
        ("s = Stack()\nassert not s\nassert isinstance(s, Stack)\nassert not isinstance(1, Stack)\nassert s == s", "pass"),
        ("assert Stack(1) == Stack(2)", "NOT_APPLICABLE"),
        ("assert Stack(1) == 4", "fail wrong-answer"),
        ("assert Stack(1) == [1]", "fail wrong-answer"),
        ("assert not (Stack(1) != 4)", "fail wrong-answer"),
        ("assert Stack(1) in [4]", "fail wrong-answer"),
        ("assert {1: Stack()} == {1: 4}", "fail wrong-answer"),
        ("assert Stack(1) < 4", "fail wrong-answer"),
        ("assert (Stack(1) + Stack(2)).items == [1, 2]", "pass"),
        ("assert Stack(1) + 1", "fail runtime 9"),
        ("assert abs(Stack(1) - 4) < 1e-6", "NOT_APPLICABLE"),
        ("assert abs(4 - Stack(1)) < 1e-6", "NOT_APPLICABLE"),
        ("assert 4 in Stack(1)", "NOT_APPLICABLE"),
        ("try:\n    assert Stack(1) == Stack(2)\nexcept BaseException:\n    pass\nassert True", "NOT_APPLICABLE"),
    ],
)
async def test_objects_of_the_program_are_never_trusted(judge: Judge, script: str, expected: str) -> None:
    assert told(await judge(STACK, script)) == expected
    opaque = await judge(STACK, script, on_opaque="fail")
    assert told(opaque) == ("fail wrong-answer" if expected == "NOT_APPLICABLE" else expected)


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(0)",
        "import os\ndef f(x): os._exit(0)",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit(0)",
        "class E(int):\n    def __eq__(self, other): return True\ndef f(x): return E()",
        "class E:\n    def __eq__(self, other): return True\ndef f(x): return E()",
        "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.all = lambda x: True\ndef f(x): return 0",
        "def all(x): return True\ndef isinstance(a, b): return True\ndef f(x): return None",
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        frame.f_locals.update(x=4)\n"
        "        frame = frame.f_back\n    return 0",
        f"import os\ndef f(x):\n  for fd in range(20):\n    try: os.write(fd, {FORGED!r})\n    except OSError: pass\n  return 0",
        "import gc\ndef f(x):\n    return next((o for o in gc.get_objects() if isinstance(o, str) and 'assert f' in o), 0)",
        "def __judge__(*a): pass\n__refusal__ = None\ndef f(x): return 0",
    ],
)
async def test_a_pass_cannot_be_forged(judge: Judge, program: str) -> None:
    for reference in (
        "assert f(3) == 6\nassert all(f(n) == 2 * n for n in (5, 7))",
        {"tests": [{"call": "f", "args": [3], "expected": 6}]},
    ):
        assert told(await judge(program, reference)).split()[0] == "fail"


@pytest.mark.parametrize(
    ("program", "category"),
    [
        ("while True: pass", "timeout"),
        ("x = []\nwhile True: x.append(b'x' * 2**20)", "memory"),
        ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "processes"),
        ("while True: print('x' * 100)", "output-limit"),
        ("import os\nos.kill(os.getppid(), 9)", "sandbox"),
    ],
)
async def test_beyond_a_limit_is_a_fail_with_its_name(judge: Judge, program: str, category: str) -> None:
    seconds = 1 if category == "timeout" else 20
    outcome = await judge(program, ECHO, seconds=seconds, memory_bytes=2**26, output_bytes=10_000, processes=8)
    assert outcome.verdict.category == category
    assert [step.status for step in outcome.verdict.steps] == [verifier_pb.VERDICT_STATUS_FAIL] * 2


@pytest.mark.parametrize(
    ("language", "program", "reference", "expected"),
    [
        ("javascript", "const n = Number(require('fs').readFileSync(0, 'utf8'))\nconsole.log(n * 2)", ECHO, "pass"),
        ("javascript", "const f = (x) => 2 * x", DOUBLE, "pass"),
        ("javascript", "function f(x) {\n  return x.y.z\n}", DOUBLE, "fail runtime 2"),
        ("javascript", "let x = 1\nlet = ;", DOUBLE, "fail syntax 2"),
        ("javascript", "let g = 1", DOUBLE, "fail missing"),
        ("cpp", "```cpp\n#include <iostream>\nint main() { int n; std::cin >> n; std::cout << n * 2; }\n```", ECHO, "pass"),
        ("cpp", "int main() {\n  return x;\n}", ECHO, "fail compile 2"),
        ("cpp", "int main() { int* p = nullptr; return *p; }", ECHO, "fail runtime"),
        ("rust", "use std::io;\nfn main() { let mut s = String::new(); io::stdin().read_line(&mut s).unwrap();\n"
         'println!("{}", s.trim().parse::<i64>().unwrap() * 2); }', ECHO, "pass"),
        ("rust", "fn main() {\n  let x: i32 = true;\n}", ECHO, "fail compile 2"),
        ("shell", "read n\necho $((n * 2))", ECHO, "pass"),
        ("shell", "echo ok\nif then", ECHO, "fail syntax 2"),
    ],
)  # fmt: skip
async def test_other_languages(judge: Judge, language: str, program: str, reference: Any, expected: str) -> None:
    found = find_languages()[language]
    outcome = await judge(program, reference, language=language)
    if isinstance(found, Missing):
        assert told(outcome) == "NOT_APPLICABLE"
        assert found.remedy in outcome.absence.detail
    else:
        assert told(outcome) == expected


@pytest.mark.parametrize(
    ("reference", "options", "reason", "words"),
    [
        ({"tests": [{"stdin": "1"}]}, {}, "INVALID_INPUT", "references[0]: tests.0"),
        ({"tests": []}, {}, "INVALID_INPUT", "there are none"),
        ({"inputs": ["1"], "outputs": []}, {}, "INVALID_INPUT", "one output an input"),
        ({"tests": [], "language": "cobol", "inputs": ["1"], "outputs": ["1"]}, {}, "INVALID_INPUT", "'cobol' is none of python"),
        ("assert f(1 ==", {}, "INVALID_INPUT", "cannot be compiled"),
        ("f(1)", {}, "INVALID_INPUT", "no assert statement"),
        ("import sys\nassert True\nsys.exit(0)", {}, "INVALID_INPUT", "exits before its end"),
        (DOUBLE, {"seconds": 1000}, "INVALID_INPUT", "options.seconds"),
        ("assert f(1)", {"language": "shell"}, "NOT_APPLICABLE", "Python only"),
        (DOUBLE, {"language": "shell"}, "NOT_APPLICABLE", "give stdin and stdout"),
    ],
)
async def test_what_cannot_be_judged_is_no_verdict(judge: Judge, reference: Any, options: dict[str, Any], reason: str, words: str) -> None:
    outcome = await judge("def f(x): return x", reference, **options)
    assert told(outcome) == reason
    assert words in outcome.absence.detail


async def test_grading_and_comparison_are_options(judge: Judge) -> None:
    assert told(await judge("print(int(input()) + 4)", ECHO, grading="all")) == "fail wrong-answer"
    loose = {"tests": [{"stdin": "", "stdout": "1.0  2"}]}
    assert told(await judge("print(1.0000000001)\nprint(2)", loose)) == "fail wrong-answer"
    assert told(await judge("print(1.0000000001)\nprint(2)", loose, output="tokens")) == "pass"
    assert told(await judge("```python\n1 / 0\n```\nprint(1)", ECHO, extract="whole")) == "fail syntax 1"


async def test_a_cancelled_call_kills_its_sandboxes(stub: Any) -> None:
    call = stub.Verify(request_of("import time; time.sleep(50)  # one", "import time; time.sleep(50)  # two", reference=ECHO, seconds=30))
    await asyncio.sleep(2)
    held = [pid for pid in usage_of(os.getpid()).pids if Path(f"/proc/{pid}/comm").read_text().strip() in {"bwrap", "runsc"}]
    call.cancel()
    deadline = time.monotonic() + 5
    while all(map(alive, held)):
        assert time.monotonic() < deadline, "the sandboxes are left running"
        await asyncio.sleep(0.05)
    assert told((await stub.Verify(request_of("print(int(input()) * 2)  # after", reference=ECHO), timeout=30)).outcomes[0]) == "pass"


async def test_one_bad_item_delays_no_other(stub: Any) -> None:
    programs = ["while True: pass  # slow", *(f"print(int(input()) * 2)  # {n}" for n in range(6))]

    async def requests() -> AsyncIterator[verifier_pb.StreamVerifyRequest]:
        request = request_of(*programs, reference=ECHO, seconds=2)
        yield verifier_pb.StreamVerifyRequest(verifier="code", options=request.options, samples=request.samples)

    order = [outcome.sample_id async for reply in stub.StreamVerify(requests(), timeout=60) for outcome in reply.outcomes]
    assert order[-1] == "0"
    assert sorted(order) == [str(n) for n in range(7)]


async def test_a_deadline_still_brings_what_is_done(stub: Any) -> None:
    response = await stub.Verify(request_of("print(int(input()) * 2)  # done", "import time; time.sleep(9)", reference=ECHO), timeout=3)
    assert [told(outcome) for outcome in response.outcomes] == ["pass", "DEADLINE"]


async def test_hanging_programs_fail_before_their_sample_is_late(stub: Any) -> None:
    """Not DEADLINE, which a policy could provoke in order not to fail."""
    server = await create_server(Config(workers=1, port=0, sandbox="auto", sandbox_item_seconds=5))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        tests = {"tests": ECHO["tests"] * 3, "assertions": "assert f(1)"}
        request = request_of("import time; time.sleep(99)", reference=tests, seconds=30)
        response = await VerifierServiceStub(channel).Verify(request, timeout=30)
    await server.stop()
    assert told(response.outcomes[0]) == "fail timeout"


async def test_equal_programs_are_run_once(stub: Any) -> None:
    def runs(ending: str = "exit") -> float:
        return REGISTRY.get_sample_value("rewardmesh_sandbox_runs_total", {"runtime": sandbox, "ending": ending}) or 0

    def limits_met() -> float:
        return runs("cpu") + runs("wall")

    sandbox = (await stub.ListVerifiers(verifier_pb.ListVerifiersRequest(), timeout=20)).verifiers[0].sandbox
    before = runs()
    response = await stub.Verify(request_of(*["print(int(input()) * 2)  # equal"] * 8, reference=ECHO), timeout=30)
    assert {told(outcome) for outcome in response.outcomes} == {"pass"}
    assert runs() == before + 2
    before = limits_met()
    for _ in range(2):
        await stub.Verify(request_of("while True: pass  # again", reference=ECHO, seconds=1), timeout=30)
    assert limits_met() == before + 4
