"""Runs a test script (`assert f(2) == 4`, `def check(candidate): ...`) against code in another sandbox, and reports every assertion.

The script's `assert` statements are rewritten, so that each is counted and a failed one does not hide those behind it. Only this process
says that the script reached its end, on a channel that the code under test does not have.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import io
import sys
from typing import Any

from rewardmesh.verifier.sandbox.inside import data, frames
from rewardmesh.verifier.sandbox.inside.remote import NotApplicable, Remote

FILENAME = "tests.py"
_LONGEST_DETAIL = 300
_MOST_STEPS = 2000


def serve(channel: frames.Channel, header: dict[str, Any], script: str) -> None:
    """Run the script and send {"op": "judged", ...}: `end` says how it ended, `steps` what each assertion came to."""
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()

    def ask(do: str, encoded: Any, name: str) -> tuple[dict[str, Any], bytes]:
        channel.send({"op": "ask", "do": do, "name": name}, data.dumps(encoded))
        frame = channel.receive()
        if frame is None:
            raise NotApplicable("the server has closed")
        return frame[0], frame[1][0] if frame[1] else b""

    remote = Remote(ask)
    judge = _Judge(script)
    try:
        code = judge.compiled(header["entry_point"])
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        channel.send(
            {"op": "judged", "end": "invalid", "detail": f"the test script cannot be compiled: {error}", "steps": [], "asserts": 0}
        )
        return
    end, detail, line = judge.run(code, remote, remote.decode(header["names"]), header["entry_point"])
    channel.send({"op": "judged", "end": end, "detail": detail, "line": line, "steps": judge.steps, "asserts": judge.asserts})


class _Judge:
    """Counts the assertions of a script."""

    def __init__(self, script: str) -> None:
        self._script = script
        self._lines = script.splitlines()
        self._found: dict[int, list[Any]] = {}
        self.asserts = 0

    @property
    def steps(self) -> list[list[Any]]:
        """[line, passed, detail, line of the code under test] of each assertion that was reached."""
        return [self._found[line] for line in sorted(self._found)][:_MOST_STEPS]

    def compiled(self, entry_point: str | None) -> Any:
        tree = ast.parse(self._script, FILENAME)
        _call_what_is_only_defined(tree, entry_point)
        rewriter = _Rewriter()
        tree = ast.fix_missing_locations(rewriter.visit(tree))
        self.asserts = rewriter.asserts
        return compile(tree, FILENAME, "exec", dont_inherit=True)

    def run(self, code: Any, remote: Remote, names: dict[str, Any], entry_point: str | None) -> tuple[str, str, int]:
        """How the script ended, what to say of it, and the line of the code under test that ended it."""
        space = {**_library(code), **_safe(names), "__name__": "__main__", "__judge__": self, "__refusal__": Exception}
        if entry_point and entry_point in space:
            space["candidate"] = space[entry_point]
        end, detail, line = "reached", "", 0
        try:
            exec(code, space)
        except NotApplicable as error:
            end, detail = "not-applicable", str(error)
        except SystemExit:
            end, detail = "invalid", "the test script exits before its end"
        except BaseException as error:  # noqa: BLE001 - whatever ends the script is its result
            end, detail, line = "raised", _told(error), error.__dict__.get("from_candidate", 0)
            if "from_candidate" not in error.__dict__ and remote.calls == 0 and not isinstance(error, NameError):
                end = "invalid"
        if remote.refused:
            end, detail = "not-applicable", remote.refused
        elif end == "reached" and not self._found and remote.calls == 0:
            end, detail = "invalid", "the test script reaches no assertion"
        return end, detail[:_LONGEST_DETAIL], line

    def check(self, line: int, holds: object) -> None:
        """An assertion was evaluated."""
        self._note(line, bool(holds), "", 0)

    def raised(self, line: int, error: Exception) -> None:
        """An assertion could not be evaluated."""
        self._note(line, False, _told(error), error.__dict__.get("from_candidate", 0))

    def _note(self, line: int, holds: bool, detail: str, where: int) -> None:
        known = self._found.setdefault(line, [line, True, "", 0])
        if known[1] and not holds:
            text = self._lines[line - 1].strip() if line <= len(self._lines) else ""
            known[1:] = [False, f"{text[:_LONGEST_DETAIL]}{': ' if detail else ''}{detail}", where]


def _safe(names: dict[str, Any]) -> dict[str, Any]:
    """Those names of the code under test that it may define here: its own `all` or `math` would decide the script's comparisons."""
    taken = {*dir(builtins), *sys.stdlib_module_names}
    return {name: value for name, value in names.items() if name.isidentifier() and not name.startswith("__") and name not in taken}


def _library(code: Any) -> dict[str, Any]:
    """The standard library's modules that the script names, imported or not: scripts rely on the imports of the code they test."""
    found: dict[str, Any] = {}
    pending = [code]
    while pending:
        one = pending.pop()
        pending.extend(constant for constant in one.co_consts if hasattr(constant, "co_names"))
        found.update({name: None for name in one.co_names if name in sys.stdlib_module_names})
    return {name: importlib.import_module(name) for name in found if importlib.util.find_spec(name)}


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_LONGEST_DETAIL]


class _Rewriter(ast.NodeTransformer):
    """`assert test` -> try: __judge__.check(line, test); except Exception as error: __judge__.raised(line, error)."""

    def __init__(self) -> None:
        self.asserts = 0

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.asserts += 1
        line = ast.Constant(node.lineno)
        error = ast.Name("__error__", ast.Load())

        def report(method: str, value: ast.expr) -> ast.stmt:
            function = ast.Attribute(ast.Name("__judge__", ast.Load()), method, ast.Load())
            return ast.Expr(ast.Call(function, [line, value], []))

        handler = ast.ExceptHandler(ast.Name("__refusal__", ast.Load()), "__error__", [report("raised", error)])
        return ast.copy_location(ast.Try([report("check", node.test)], [handler], [], []), node)


def _call_what_is_only_defined(tree: ast.Module, entry_point: str | None) -> None:
    """`check` and `test_...` functions that the script itself calls nowhere are called at its end."""
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    for node in [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name not in called]:
        required = len(node.args.args) - len(node.args.defaults)
        arguments: list[ast.expr] = []
        if node.name == "check" and required == 1 and entry_point:
            arguments = [ast.Name(entry_point, ast.Load())]
        elif not (node.name.startswith("test") or node.name == "check") or required:
            continue
        tree.body.append(ast.Expr(ast.Call(ast.Name(node.name, ast.Load()), arguments, [])))
