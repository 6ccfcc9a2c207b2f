"""Every constraint: a text that keeps it and one that breaks it, and edge cases."""

from typing import Any

import pytest

from rewardmesh.verifier.rules import CONSTRAINTS, Finding, Text, check, constraints_of, loose, strict
from rewardmesh.verifier.rules.catalogue import _ADAPTER

IFEVAL = {
    "keywords": ("existence", "frequency", "forbidden_words", "letter_frequency"),
    "language": ("response_language",),
    "length_constraints": ("number_sentences", "number_paragraphs", "number_words", "nth_paragraph_first_word"),
    "detectable_content": ("number_placeholders", "postscript"),
    "detectable_format": (
        "number_bullet_lists",
        "constrained_response",
        "number_highlighted_sections",
        "multiple_sections",
        "json_format",
        "title",
    ),
    "combination": ("two_responses", "repeat_prompt"),
    "startend": ("end_checker", "quotation"),
    "change_case": ("capital_word_frequency", "english_capital", "english_lowercase"),
    "punctuation": ("no_comma",),
}
GERMAN = "Der Hund schläft heute lange, weil er gestern mit den Kindern durch den ganzen Wald gelaufen ist."
ENGLISH = "The dog sleeps long today because yesterday it ran through the whole forest with the children."
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"pattern": "^a+$"}}, "required": ["n"]}
TABLE = "| a | b |\n|---|:-:|\n| 1 | 2 |\n"

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["Straße", "red apple"]}, "STRAßE, red\napples", "Straße red pear"),
    ("keywords:existence", {"keywords": ["a.b"]}, "A.B", "axb"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "at least"}, "cat Cats", "cat dog"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "less than"}, "cat dog", "cat cat"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2.0, "relation": "exactly"}, "cat cat", "cat cat cat"),
    ("keywords:forbidden_words", {"forbidden_words": ["art", "café"]}, "a party, cafés", "fine ART"),
    ("keywords:forbidden_words", {"forbidden_words": ["café"]}, "caféine", "un café."),
    ("keywords:forbidden_words", {"forbidden_words": ["猫"]}, "黑狗", "黑猫在家"),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": "at least"}, "Qq", "q"),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": "less than"}, "a", "#a"),
    ("keywords:banned_strings", {"strings": ["As an AI", "<|"]}, "as an ai", "x <|y"),
    ("keywords:banned_strings", {"strings": ["As an AI"], "ignore_case": True}, "İ asan ai", "İ as an ai"),
    ("language:response_language", {"language": "de"}, GERMAN, ENGLISH),
    ("language:response_language", {"language": "en"}, f"{ENGLISH}\n```\nfür jeden hund gilt das hier\n```", GERMAN),
    ("language:response_language", {"language": "zh-cn"}, "你好，今天天气很好。我们去公园散步。", ENGLISH),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one, two—three", "don't"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "eins zwei", "один два три"),
    ("length_constraints:number_sentences", {"num_sentences": 2}, "Dr. Lee left. Why?", "It costs 3.50 e.g. in May."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "J. Smith sat.", "Da! Dort!"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "exactly"}, "你好。再见！", "- one\n- two\n- three"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb\n***", "a\n\nb"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\r\n***\r\nb", "a *** *** b"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "a\r\n\r\n“Then, b",
        "then\n\nb",
    ),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"}, "", "a"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "a"},
        "a b\n\n\n\nc",
        "a\n\nb\n\nc",
    ),
    ("length:bounds", {"unit": "characters", "maximum": 3}, "😀é.", "abcd"),
    ("length:bounds", {"unit": "words", "minimum": 2, "maximum": 3}, "a b", "a"),
    ("length:bounds", {"unit": "sentences", "minimum": 2}, "A dog. A cat.", "A dog."),
    ("length:bounds", {"unit": "lines", "maximum": 2}, "a\r\n\r\nb", "a\nb\nc"),
    ("length:bounds", {"unit": "paragraphs", "minimum": 2, "maximum": 2}, "a\r\n\r\nb\nc", "a\nb"),
    ("length:bounds", {"unit": "tokens", "maximum": 7}, "x", ""),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", "[name] [open"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. one more", "GPS.S. is none"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye. **P.P.S** two", "P.S. one"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\r\n  - b", "**a**\n- b\n---"),
    ("detectable_format:constrained_response", {}, "Well. My answer is no.", "my answer is no."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b c**", "*a* and ** **, *open\n*"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "Section 1 SECTION x",
    ),
    ("detectable_format:json_format", {}, '```json\r\n{"a": [1]}\r\n```', '{"a": 1,}'),
    ("detectable_format:json_format", {}, "[]", "[" * 200_000),
    ("detectable_format:json_format", {}, r'"\ud83d\ude00"', r'"\ud83d"'),
    ("detectable_format:json_format", {}, "-1e3", "NaN"),
    ("detectable_format:json_format", {}, '{"a": {"b": 1}, "b": {"b": 2}}', '{"a": {"b": 1, "b": 2}}'),
    ("format:json_schema", {"json_schema": {"type": "object"}}, '{"a": 1, "b": 1}', '{"a": 1, "a": 1}'),
    ("format:json_schema", {"json_schema": {"type": ["null", "number"]}}, "1e308", "1e999"),
    ("detectable_format:title", {}, "<<On dogs>>\nText", "<< >> <a>"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:two_responses", {}, "******one******two******", "one****** ******two"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say why."}, "  say WHY.\nBecause.", "Because. Say why."),
    ("startend:end_checker", {"end_phrase": "Any questions?"}, '"So. any questions?"\n', "Any questions? No."),
    ("startend:quotation", {}, ' "a" \n', '"'),
    ("startend:quotation", {}, '""', "“a”"),
    ("startend:starts_with", {"phrases": ["Dear", "Hi"]}, "\nHi you", "hi you"),
    ("startend:starts_with", {"phrases": ["DEAR"], "ignore_case": True}, "dear", "my dear"),
    ("startend:ends_with", {"phrases": ["bye", "."]}, "end. ", "bye bye!"),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "I like NATO", "Nato I"),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": "less than"}, "all small", "E-MAIL"),
    ("change_case:english_capital", {}, "HELLO, 3 DOGS!", "HELLO dOG"),
    ("change_case:english_capital", {}, ENGLISH.upper(), GERMAN.upper()),
    ("change_case:english_lowercase", {}, "hello, 3 dogs!", "hello Dog"),
    ("change_case:english_lowercase", {}, ENGLISH.lower(), GERMAN.lower()),
    ("change_case:english_lowercase", {}, "a", "123"),
    ("punctuation:no_comma", {}, "a; b、c", "a, b"),
    ("format:json_schema", {"json_schema": SCHEMA}, '```json\n{"n": 3, "s": "aa"}\n```', '{"n": "3"}'),
    ("format:json_schema", {"json_schema": SCHEMA}, '{"n": 3}', '{"n": 3, "s": "b"}'),
    ("format:json_schema", {"json_schema": SCHEMA, "where": "fence"}, 'So:\n```json\n{"n": 1}\n```\nDone.', '{"n": 1}'),
    ("format:json_schema", {"json_schema": {"type": "array"}}, "[1]", "not JSON"),
    ("format:xml", {"root": "a", "required_elements": ["b"]}, "<a><b>é</b></a>", "<a><b></a>"),
    ("format:xml", {"root": "a"}, "```xml\n<a/>\n```", "<b/>"),
    ("format:xml", {"required_elements": ["b"]}, "<a><c><b/></c></a>", "<a><c/></a>"),
    ("format:xml", {}, "<a>&lt;</a>", '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'),
    ("format:xml", {"fragment": True, "required_elements": ["a", "b"]}, "so <a>1</a> and <b/>", "<a/>"),
    ("format:xml", {"fragment": True, "root": "a"}, "<a/><b/>", "text only"),
    ("format:regex", {"pattern": r"\d{4}"}, "in 1999", "in 99"),
    ("format:regex", {"pattern": "sorry", "expected": "no match"}, "fine", "so sorry"),
    ("format:regex", {"pattern": "yes|no", "whole": True}, "no", "no."),
    ("format:sections", {"titles": ["Plan", "Answer"]}, "# plan\na\n\n**Answer:** b", "Answer: b\nPlan: a"),
    ("format:sections", {"titles": ["Plan", "Answer"]}, "Plan: a\nAnswer: b", "Hello.\nPlan: a\nAnswer: b"),
    ("format:sections", {"titles": ["Plan", "Answer"]}, "Plan: a\nAnswer:\nb", "Plan:\nAnswer: b"),
    ("format:sections", {"titles": ["Plan"], "only": False}, "Hello.\nPlan: a\n# More", "Plan B: a"),
    ("format:sections", {"titles": ["Plan"]}, "## Plan\na", "## Plan\na\n## More\nb"),
    ("format:tags", {"tags": ["think", "answer"]}, "<think>a</think>\n<answer>b</answer>", "<think>a</think>b<answer>b</answer>"),
    ("format:tags", {"tags": ["think", "answer"]}, " <think>a<b></think><answer>b</answer> ", "<answer>b</answer><think>a</think>"),
    ("format:tags", {"tags": ["answer"], "only": False}, "so <answer>b</answer>.", "<answer>b</answer><answer>c</answer>"),
    ("format:tags", {"tags": ["answer"]}, "<answer>b</answer>", "<answer> </answer>"),
    ("format:tags", {"tags": ["a", "b"]}, "<a>1</a><b>2</b>", "<a>1<b>2</b></a>"),
    ("markdown:tables", {}, TABLE, "a | b\nc | d"),
    ("markdown:tables", {"rows": 1, "columns": 2, "maximum": 1}, TABLE, f"{TABLE}\n{TABLE}"),
    ("markdown:tables", {"minimum": 2}, f"{TABLE}\ntext\n\n{TABLE}", f"{TABLE}```\n{TABLE}```"),
    ("markdown:tables", {"rows": 2}, TABLE.replace("\n", "\r\n") + "| 3 | 4 |", TABLE),
    ("markdown:headings", {"minimum": 2}, "# a\r\n## b", "# a\n```\n# b\n```\n#c"),
    ("markdown:headings", {"level": 2, "maximum": 1}, "# a\n## b", "## a\n## b"),
    ("markdown:list_items", {"minimum": 2, "kind": "bulleted"}, "- a\n  * b", "1. a\n2. b"),
    ("markdown:list_items", {"minimum": 2, "maximum": 2, "kind": "numbered"}, "1. a\n2) b", "1. a\n2. b\n3. c"),
    ("markdown:list_items", {"minimum": 3}, "- a\n1. b\n+ c", "-a\n1. b\n+ c"),
    ("markdown:code_blocks", {}, "~~~\nx\n~~~", "```\nnever closed"),
    ("markdown:code_blocks", {"language": "Python"}, "```python\nx\n```", "```js\nx\n```"),
]


def found(name: str, arguments: dict[str, Any], text: str) -> Finding:
    result = check(_ADAPTER.validate_python({"id": name, **arguments}), strict(Text(text, 7)))
    assert isinstance(result, Finding), result
    return result


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_kept_and_broken(name: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    if good:
        assert found(name, arguments, good).kept, found(name, arguments, good).evidence
    broken = found(name, arguments, bad)
    assert not broken.kept, broken.evidence
    assert broken.evidence
    if broken.span:
        assert 0 <= broken.span[0] < broken.span[1] <= len(bad)


def test_every_instruction_of_ifeval_is_known_and_every_constraint_is_in_the_table() -> None:
    ids = {f"{family}:{name}" for family, names in IFEVAL.items() for name in names}
    assert len(ids) == 25
    assert ids <= set(CONSTRAINTS)
    assert {name for name, *_ in CASES} == set(CONSTRAINTS)


@pytest.mark.parametrize("name", [name for name, *_ in CASES])
@pytest.mark.parametrize("text", ["", " \r\n\t"])
def test_a_blank_text_keeps_nothing(name: str, text: str) -> None:
    arguments = next(arguments for one, arguments, *_ in CASES if one == name)
    assert not found(name, arguments, text).kept


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("startend:quotation", {}, 'Sure, here it is:\n"quoted"'),
        ("detectable_format:json_format", {}, "Here:\n{}\nBye."),
        ("startend:end_checker", {"end_phrase": "over and out"}, "so **over and out**"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say why."}, "Okay:\nSay why. Because."),
    ],
)
def test_a_loose_reading_forgives_the_frame(name: str, arguments: dict[str, Any], text: str) -> None:
    constraint = _ADAPTER.validate_python({"id": name, **arguments})
    assert not found(name, arguments, text).kept
    result = check(constraint, loose(Text(text)))
    assert isinstance(result, Finding)
    assert result.kept
    assert "loose" in result.evidence


@pytest.mark.parametrize("text", ["", "one line", "a\nb", "*a*\n\nb\n*"])
def test_loose_readings_are_distinct_and_begin_with_the_text(text: str) -> None:
    readings = loose(Text(text))
    assert readings[0].whole == text
    assert len({reading.whole for reading in readings}) == len(readings) <= 8


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "*" * 200_000, "[" * 200_000, "<" * 200_000, "\n- " * 60_000, "| " * 100_000, "é. " * 60_000]
)
@pytest.mark.timeout(20)
def test_long_hostile_text_takes_little_time(text: str) -> None:
    for name, arguments, *_ in CASES:
        check(_ADAPTER.validate_python({"id": name, **arguments}), strict(Text(text)))


def test_the_null_arguments_of_the_data_set_are_none() -> None:
    (one,) = constraints_of('{"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": null, "relation": null}]}')
    assert one.id == "punctuation:no_comma"
