r"""Regex: whether the completion has the asked-for format, by patterns that must and must not match.

Patterns are RE2's: a search takes time linear in the text, so small patterns run inline. `engine: python` reads Python's syntax instead,
with look-around and back-references; catastrophic backtracking is contained there by the worker's time limit. Beside those two things
RE2 differs in that \d, \w, \s and \b know ASCII only (\pL and \p{N} know all scripts), and that $ does not match before a last newline.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, model_validator

from rewardmesh.verifier.patterns import linear, small
from rewardmesh.verifier.registry import LimitedOptions, Verifier
from rewardmesh.verifier.verdicts import SampleFields, Verdict, failed, passed


def _compilable(pattern: str, info: ValidationInfo) -> str:
    engine = info.data.get("engine")
    if engine == "python":
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
    elif engine == "re2":
        try:
            linear(pattern)
        except ValueError as error:
            hint = "look-around, back-references and possessive repeats need engine: python, which is slower and has a time limit"
            raise ValueError(f"not a regular expression: {error} ({hint})") from error
    return pattern


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_compilable)]


class RegexOptions(LimitedOptions):
    """What to look for; all conditions must hold to pass."""

    engine: Literal["re2", "python"] = Field(
        "re2", description="Whose patterns these are: re2 searches in linear time; python has look-around and back-references, in a worker."
    )
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


_FLAGS = {"ignore_case": "i", "multiline": "m", "dot_all": "s"}


def verify(sample: SampleFields, options: RegexOptions) -> Verdict:
    """FAIL names the first broken condition; the span is the unwanted match, or the first wanted one."""

    def search(pattern: str) -> re.Match[str] | None:
        compiled = _compiled(pattern, options)
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
            return failed(f"must_not_match[{index}] {pattern!r} was found at {match.span()[0]}", span=match.span())
    return passed(f"{len(options.must_match)} wanted patterns found, {len(options.must_not_match)} unwanted ones not", span=first)


def _compiled(pattern: str, options: RegexOptions) -> re.Pattern[str]:
    flags = "".join(sorted({_FLAGS[name] for name in options.flags}))
    if options.engine == "re2":
        return linear(pattern, flags)
    return re.compile(pattern, sum((getattr(re, letter.upper()) for letter in flags), re.NOFLAG))


def _inline(sample: SampleFields, options: RegexOptions) -> bool:
    return options.engine == "re2" and all(small(pattern) for pattern in (*options.must_match, *options.must_not_match))


VERIFIER = Verifier(
    "regex",
    "The completion has the wanted format, by regular expressions.",
    ("completion.text",),
    RegexOptions,
    verify,
    inline=_inline,
)
