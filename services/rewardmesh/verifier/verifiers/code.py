"""Code: whether a program passes its tests, which run in a sandbox. See `code.suite` for how tests are written as a reference.

The score is the share of tests passed, PARTIAL in between; `steps` has one verdict a test, `category` says what the first failure was, and
the location is the line of the completion that a syntax error, an exception or a compiler points at (RLTF, Liu et al. 2023,
arXiv 2307.04349). What is expected never enters the sandbox in which the candidate's code runs.

A program that exceeds its limits fails: the policy is responsible. No sandbox, or one that breaks, is no verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rewardmesh.verifier.registry import Options, in_sandboxes
from rewardmesh.verifier.verdicts import NoVerdict, SampleFields, Verdict

if TYPE_CHECKING:
    from rewardmesh.verifier.sandbox.sandboxes import Sandboxes

LanguageName = Literal["python", "javascript", "cpp", "rust", "shell"]


class CodeOptions(Options):
    """How to find, run and grade a program. The limits hold for each test; the server's configuration has their maxima."""

    language: LanguageName | None = Field(None, description="The program's language; unset for the reference's, else python.")
    extract: Literal["fence", "whole"] = Field(
        "fence", description="The program is the last fenced block of its language (the whole completion without one), or always the whole."
    )
    grading: Literal["fraction", "all"] = Field("fraction", description="The share of tests passed, or 1 only when all are.")
    output: Literal["trimmed", "tokens"] = Field(
        "trimmed", description="Outputs are equal but for whitespace at ends of lines, or have equal words, with numbers within tolerance."
    )
    tolerance: float = Field(1e-6, ge=0, lt=1, description="Relative or absolute difference of floats that counts as none.")
    seconds: float = Field(5.0, gt=0, description="Processor time; wall time is at most twice that and a second.")
    memory_bytes: int = Field(2**28, ge=2**24, description="Resident memory of all processes together.")
    processes: int = Field(32, ge=1, description="Processes and threads together.")
    output_bytes: int = Field(2**20, ge=1, description="Bytes of stdout, and of stderr.")
    on_opaque: Literal["absent", "fail"] = Field(
        "absent",
        description="What a program gets whose values a test script cannot judge from afar (it compares objects of the program's own "
        "classes, or passes functions): no verdict, or FAIL, so that no policy gains from such values.",
    )


async def check(sample: SampleFields, options: CodeOptions, sandboxes: Sandboxes) -> Verdict | NoVerdict:
    """INVALID_INPUT for a reference without tests or limits beyond the server's; NOT_APPLICABLE for a language that is not installed."""
    from rewardmesh.verifier.code.judging import judge

    return await judge(sample, options, sandboxes)


VERIFIER = in_sandboxes(
    "code",
    'A program passes its tests. The first reference is JSON: {"tests": [{"stdin", "stdout"} or {"call", "args", "kwargs", "expected"}], '
    '"assertions": "a test script", "entry_point", "language", "prefix"} or {"inputs", "outputs", "fn_name"}; any other text is a test '
    "script of Python assertions.",
    ("completion.text", "references"),
    CodeOptions,
    check,
)
