"""How programs are found in completions, how outputs and values are compared, and what references may say."""

from typing import Any

import pytest

from rewardmesh.verifier.code.comparison import same_text, same_tokens, same_value
from rewardmesh.verifier.code.extraction import find_code
from rewardmesh.verifier.code.suite import InvalidReference, StdinTest, read_suite

PYTHON = ("python", "py")


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("x = 1", "x = 1"),
        ("say\n```python\nx = 1\n```\nbye", "x = 1"),
        ("```python\na\n```\n```python\nb\n```\n```\nc\n```", "b"),
        ("```\na\n```\n```js\nb\n```", "a"),
        ("```js\nb\n```", "```js\nb\n```"),
        ("```python\nx = 1\ny = 2", "x = 1\ny = 2"),
        ("````python\n```\nx\n````", "```\nx"),
        ("```Python title=x\nx\n```", "x"),
        ("  ```python\n  x\n  ```", "  x"),
        ("```python\n```", ""),
        ("```python", ""),
        ("", ""),
        ("`a`\n```python\nb\n```", "b"),
    ],
)
def test_the_last_block_of_the_language_is_the_program(completion: str, code: str) -> None:
    found = find_code(completion, PYTHON)
    assert found.text == code
    assert completion[found.start : found.start + len(code)] == code


def test_lines_are_found_again() -> None:
    completion = "é\n```py\na\n  bcd\n```"
    found = find_code(completion, PYTHON)
    span = found.line_span(2)
    assert span is not None
    assert completion[slice(*span)] == "bcd"
    assert found.line_span(3) is found.line_span(0) is None


def test_reading_is_linear() -> None:
    find_code("```" * 300_000, PYTHON)
    find_code("```\n" * 250_000, PYTHON)


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        (1, 1, True), (1, 1.0, True), (1, 2, False), (0.3, 0.1 + 0.2, True), (2**70, 2**70 + 1, False), (10**400, 1.5, False),
        (float("nan"), float("nan"), True), (float("inf"), float("-inf"), False), (None, None, True), (None, 0, False),
        ([1, 2], (1, 2), True), ([1, 2], [2, 1], False), ([1], {1}, False), ("1", 1, False), ("a", "a", True), (b"a", "a", False),
        ({"1": [0.3]}, {1: (0.1 + 0.2,)}, True), ({"true": 1}, {True: 1}, True), ({"1": 1}, {1: 1, "1": 1}, False), ({}, [], False),
    ],
)  # fmt: skip
def test_values(expected: Any, found: Any, same: bool) -> None:
    assert same_value(expected, found, 1e-6) is same


@pytest.mark.parametrize(
    ("expected", "found", "text", "tokens"),
    [
        ("1 2\n3\n", "1 2  \n3", True, True),
        ("1 2", "1\n2", False, True),
        ("0.3", "0.30000000004", False, True),
        ("0.3", "0.4", False, False),
        ("a b", "a", False, False),
        ("", "\n\n", True, True),
        ("x", "", False, False),
    ],
)
def test_outputs(expected: str, found: str, text: bool, tokens: bool) -> None:
    assert same_text(expected, found) is text
    assert same_tokens(expected, found, 1e-6) is tokens


def test_layouts_of_tests() -> None:
    assert read_suite('{"inputs": [["1", "2"]], "outputs": ["3"]}').tests == (StdinTest("1\n2", "3"),)
    assert read_suite("assert f(1)").script == "assert f(1)"
    assert read_suite('["assert f(1)", "assert f(2)"]').script == "assert f(1)\nassert f(2)"
    assert read_suite('{"assertions": ["assert f(1)"], "entry_point": "f"}').entry_point == "f"


@pytest.mark.parametrize(
    "reference",
    ["", "  ", "{}", "[" * 100_000, '{"tests": 1}', '{"tests": [{"call": "f"}]}', '{"tests": [{"call": "f", "stdin": "", "expected": 1}]}',
     '{"tests": [{"args": [1], "stdout": ""}]}', '{"inputs": [1], "outputs": [1]}', '{"inputs": [1], "outputs": [1], "fn_name": "f"}',
     '{"test": []}', '{"inputs": ["1"], "outputs": ["1", "2"]}'],
)  # fmt: skip
def test_references_without_tests_are_refused(reference: str) -> None:
    with pytest.raises(InvalidReference):
        read_suite(reference)
