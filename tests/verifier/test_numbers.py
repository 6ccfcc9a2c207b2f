"""Plain numbers: exact reading, canonical form."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.verifier.numbers import PlainNumber, equal, numbers_in, read_number


@given(st.integers(-(10**30), 10**30), st.sampled_from(["{}", "${}$", "**{}**", "{} apples", "\\boxed", "{}."]))
def test_reads_back_whole_numbers(value: int, form: str) -> None:
    text = form.format(value) if "{}" in form else str(value)
    assert read_number(text) == PlainNumber(Fraction(value))


@given(st.integers(0, 10**15), st.integers(1, 10**6))
def test_canonical_form_names_the_same_number(above: int, below: int) -> None:
    number = PlainNumber(Fraction(above, below))
    again = read_number(str(number))
    assert again is not None
    assert again.value == number.value


@given(st.text(alphabet="0123456789.,/-$% x+*()e\\{}\n", max_size=40))
def test_reads_or_declines_anything(text: str) -> None:
    read_number(text)
    for start, end, _ in numbers_in(text):
        assert 0 <= start < end <= len(text)


@pytest.mark.parametrize("text", ["5x", "5!", "5 + 3", "2 pi", "1/0", "", "-", "$", "5 and 6", "3,5", "x = 5", "1.2.3"])
def test_declines_what_is_not_simple(text: str) -> None:
    assert read_number(text) is None


def test_percent_is_lenient_only_against_plain_numbers() -> None:
    half, fifty, fifty_percent = PlainNumber(Fraction(1, 2)), PlainNumber(Fraction(50)), PlainNumber(Fraction(50), percent=True)
    assert equal(fifty, fifty_percent)
    assert equal(half, fifty_percent)
    assert equal(fifty_percent, half)
    assert not equal(half, fifty)
