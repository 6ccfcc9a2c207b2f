"""Regex: whether the completion has the asked-for format, by patterns that must and must not match.

Patterns are Python regular expressions. Catastrophic backtracking is contained by the worker's time limit, not by a restricted syntax.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from rewardmesh.verifier.registry import LimitedOptions, Verifier
from rewardmesh.verifier.verdicts import SampleFields, Verdict, failed, passed


def _compilable(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_compilable)]


class RegexOptions(LimitedOptions):
    """What to look for; all conditions must hold to pass."""

    must_match: tuple[Pattern, ...] = Field((), description="Patterns each of which has to be found.")
    must_not_match: tuple[Pattern, ...] = Field((), description="Patterns none of which may be found.")
    flags: tuple[Literal["ignore_case", "multiline", "dot_all"], ...] = Field(
        (), description="Python's flags of these names, for all patterns."
    )
    whole: bool = Field(False, description="Whether a pattern has to match the whole completion instead of a part.")

    @model_validator(mode="after")
    def _some_pattern(self) -> Self:
        if not self.must_match and not self.must_not_match:
            raise ValueError("give at least one pattern in must_match or must_not_match")
        return self


_FLAGS = {"ignore_case": re.IGNORECASE, "multiline": re.MULTILINE, "dot_all": re.DOTALL}


def verify(sample: SampleFields, options: RegexOptions) -> Verdict:
    """FAIL names the first broken condition; the span is the unwanted match, or the first wanted one."""
    flags = re.NOFLAG
    for name in options.flags:
        flags |= _FLAGS[name]

    def search(pattern: str) -> re.Match[str] | None:
        compiled = re.compile(pattern, flags)
        return compiled.fullmatch(sample.completion) if options.whole else compiled.search(sample.completion)

    first: tuple[int, int] | None = None
    for index, pattern in enumerate(options.must_match):
        match = search(pattern)
        if match is None:
            return failed(f"must_match[{index}] {pattern!r} was not found")
        first = first or match.span()
    for index, pattern in enumerate(options.must_not_match):
        match = search(pattern)
        if match is not None:
            return failed(f"must_not_match[{index}] {pattern!r} was found at {match.start()}", span=match.span())
    return passed(f"{len(options.must_match)} wanted patterns found, {len(options.must_not_match)} unwanted ones not", span=first)


VERIFIER = Verifier("regex", "The completion has the wanted format, by regular expressions.", ("completion.text",), RegexOptions, verify)
