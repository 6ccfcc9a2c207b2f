"""Quotes are found where they stand, or not at all."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.judge.quotes import LONGEST_CLOSE, Quotes, unmarked, without_marks

TEXT = "The cat sat on the mat.\nThe  dog’s name is “Rex”; he weighs ½ ton. The cat sat on the mat."


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("The cat sat", "The cat sat"),
        ("the CAT sat", "The cat sat"),
        ("the mat. The dog's name", "the mat.\nThe  dog’s name"),
        ('"Rex"', "“Rex”"),
        ('"the dog\'s name..."', "The  dog’s name"),
        ("he weighs 1⁄2 ton", "he weighs ½ ton"),
        ("The dog's name was Rex; he weighs", "The  dog’s name is “Rex”; he weighs"),
        ("a completely different sentence", None),
        ("zzz", None),
        ("", None),
        ("   ", None),
        ('""', None),
    ],
)
def test_places(quote: str, found: str | None) -> None:
    place = Quotes(TEXT).place(quote)
    assert (TEXT[place[0] : place[1]] if place else None) == found


def test_an_occurrence_is_given_out_once() -> None:
    quotes = Quotes(TEXT)
    first, second = quotes.place("The cat sat"), quotes.place("The cat sat")
    assert first == (0, 11)
    assert second is not None
    assert TEXT[second[0] : second[1]] == "The cat sat"
    assert second[0] > first[1]
    assert quotes.place("The cat sat") is None
    assert quotes.place("cat sat on") == (4, 14), "other words may overlap"


def test_letters_that_become_several_keep_their_place() -> None:
    text = "Die Straße ist naß."
    assert Quotes(text).place("STRASSE") == (4, 10)
    assert Quotes(text).place("ist nass") == (11, 18)


@given(st.text(min_size=1, max_size=80), st.data())
def test_what_is_quoted_as_it_stands_is_found(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    place = Quotes(text).place(text[start:end])
    if text[start:end].strip():
        assert place is not None
        assert text[place[0] : place[1]] == text[start:end]


@given(st.text(max_size=80), st.text(max_size=40))
def test_a_place_lies_in_the_text(text: str, quote: str) -> None:
    place = Quotes(text).place(quote)
    assert place is None or 0 <= place[0] < place[1] <= len(text)


def test_long_texts_take_no_time() -> None:
    began = time.process_time()
    quotes = Quotes("ab " * LONGEST_CLOSE)
    assert quotes.place("abc " * 50) is None
    assert quotes.place("ab ab") == (0, 5)
    Quotes("a b c d e " * (LONGEST_CLOSE // 10)).place("f g h i j " * 40)
    assert time.process_time() - began < 5


def test_marks_are_taken_off() -> None:
    assert unmarked("| She buys 7\n| apples", "lines") == "She buys 7\napples"
    assert unmarked("^She^buys\n^7", "words") == "She buys\n7"
    assert unmarked("| x", "none") == "| x"
    assert without_marks("| a\n| b", "lines") == "a\nb"
    assert without_marks("A table:\n| a |\n| b |", "lines") == "A table:\n| a |\n| b |"
    assert without_marks("x^2 + 1", "words") == "x^2 + 1"
    assert without_marks("^all^of\n^it", "words") == "all of\nit"
