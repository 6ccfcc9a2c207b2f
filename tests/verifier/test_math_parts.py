"""Units and structures: how answers are taken apart."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.verifier.math.structure import Kind, structure_of
from rewardmesh.verifier.math.units import parse_unit, split_unit, unit_of


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [
        ("km/h", "m/s", Fraction(1000, 3600)),
        ("square feet", "square inches", Fraction(144)),
        ("m^2", "cm²", Fraction(10_000)),
        ("kg*m/s^2", "N", Fraction(1)),
        ("Liters", "mL", Fraction(1000)),
        ("miles per hour", "mph", Fraction(1)),
        ("cents", "$", Fraction(1, 100)),
    ],
)
def test_units_of_one_kind_have_a_scale(one: str, other: str, ratio: Fraction) -> None:
    first, second = parse_unit(one), parse_unit(other)
    assert first is not None
    assert second is not None
    assert first.bases == second.bases
    assert first.scale / second.scale == ratio


@pytest.mark.parametrize("text", ["", "eggs", "cm eggs", "km/", "m^x", "/h"])
def test_what_is_no_known_unit(text: str) -> None:
    unit = parse_unit(text)
    assert unit is None or not unit.bases


@pytest.mark.parametrize(
    ("text", "head"),
    [("5 cm", "5"), ("5cm", "5"), ("5\\text{ cm}^2", "5"), ("2\\sqrt{3} km/h", "2\\sqrt{3}"), ("90^\\circ", "90"), ("20 °C", "20")],
)
def test_a_known_unit_is_split_off(text: str, head: str) -> None:
    split = split_unit(text)
    assert split is not None
    assert split[0] == head


@pytest.mark.parametrize("text", ["5m", "cm", "x + cm", "the cat sat in", "5 eggs", "5", ""])
def test_nothing_else_is_split_off(text: str) -> None:
    assert split_unit(text) is None


def test_the_unit_in_prose() -> None:
    assert unit_of("she earns $18 a day") == parse_unit("dollars")
    assert unit_of("18 eggs") == unit_of("4 egg")
    assert unit_of("18 eggs") != unit_of("18 apples")
    assert unit_of("18") is None


@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        ("\\{1, 2\\}", Kind.SET, ("1", "2")),
        ("$(1,\\frac{1}{2})$", Kind.TUPLE, ("1", "\\frac{1}{2}")),
        ("x \\in [0, \\infty)", Kind.TUPLE, ("0", "\\infty")),
        ("1,000, 2,000", Kind.LIST, ("1,000", "2,000")),
        ("1, 2 and 3", Kind.LIST, ("1", "2", "3")),
        ("1 \\pm \\sqrt{2}", Kind.SET, ("1 + \\sqrt{2}", "1 - \\sqrt{2}")),
        ("a \\le x < b", Kind.TUPLE, ("a", "b")),
        ("\\begin{pmatrix}1 & 2 \\\\ 3 & 4\\end{pmatrix}", Kind.MATRIX, ("1", "2", "3", "4")),
    ],
)
def test_parts(text: str, kind: Kind, parts: tuple[str, ...]) -> None:
    structure = structure_of(text)
    assert structure is not None
    assert (structure.kind, structure.parts) == (kind, parts)


@pytest.mark.parametrize(
    "text", ["", "5", "(x+1)(x+2)", "f(1, 2)", "(1, 2", "1, 2)", "well, two cats", "{}", "1," * 3000, "(" * 500, "[0,1"]
)
def test_what_has_no_parts(text: str) -> None:
    structure = structure_of(text)
    assert structure is None or structure.kind is Kind.LIST


@given(st.text(alphabet="0123456789,;()[]{}\\ xandorpmU<=>&.$%cm/^", max_size=60))
def test_anything_can_be_taken_apart_or_not(text: str) -> None:
    structure_of(text)
    split_unit(text)
    unit_of(text)


@pytest.mark.parametrize("text", ["(" * 2048, "1," * 1024, "cm " * 700, "5 " * 1000, "\\begin{array}" * 150, "a<" * 1000, " and " * 400])
def test_long_text_costs_little(text: str) -> None:
    began = time.monotonic()
    structure_of(text)
    split_unit(text)
    unit_of(text)
    assert time.monotonic() - began < 1
