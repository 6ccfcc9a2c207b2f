"""Principles as text: what is a principle, and which of them are one."""

from __future__ import annotations

import pytest

from rewardmesh.principles.wording import distinct, normalise, similarity


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("  - **prefer short answers** ", "Prefer short answers."),
        ("1. Principle: Prefer\n  short  answers.", "Prefer short answers."),
        ("“Do not lie to people!”", "Do not lie to people!"),
        ("2024 sources are preferred", "2024 sources are preferred."),
        ("Shorter", None),
        ("", None),
        ("- * >", None),
        ("Which answer is better here?", None),
        ("word " * 100, None),
    ],
)
def test_normalise(written: str, expected: str | None) -> None:
    assert normalise(written) == expected
    if expected:
        assert normalise(expected) == expected


def test_opposites_and_negations_are_not_alike() -> None:
    assert similarity("Prefer shorter answers.", "Prefer longer answers.") == 0
    assert similarity("Help the person.", "Do not help the person.") < 0.7
    assert similarity("Prefer the answer that is shorter.", "choose shorter answers") == 1
    assert similarity("The", "of it") == 1


def test_candidates_alike_are_counted_as_one() -> None:
    found = distinct(["Prefer short answers."], ["Prefer short answers!", "Be kind to people.", "The short answer is to prefer."], 0.7)
    assert [(each.text, each.given, each.proposed) for each in found] == [
        ("Prefer short answers.", True, 2),
        ("Be kind to people.", False, 1),
    ]
    assert [each.source for each in found] == ["given, proposed 2 times", "proposed once"]


def test_ids_are_short_and_unique() -> None:
    found = distinct(["Prefer kind words to cold words.", "Prefer kind words to all harsh ones.", "好的回答 更 短"], [], 1.0)
    assert [each.id for each in found] == ["kind-words-cold-words", "kind-words-all-harsh", "principle"]
    same = distinct(["Prefer kind short words now.", "Prefer kind short words now, not later."], [], 1.0)
    assert [each.id for each in same] == ["kind-short-words-now", "kind-short-words-now-2"]
