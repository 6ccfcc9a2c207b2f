"""Template files and their labels: what is refused when a server starts, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from judge.conftest import SHORT, YES_NO, Serve
from rewardmesh.engine.loading import LoadError
from rewardmesh.judge import JudgeConfig, create_server
from rewardmesh.judge.labels import LabelTree, control_tokens, label_paths
from rewardmesh.judge.library import load_templates
from rewardmesh.judge.template import JudgeTemplate, read_template
from rewardmesh.serving import ConfigError


def write(directory: Path, text: str, name: str = "t.yaml") -> Path:
    file = directory / name
    file.write_text(text)
    return file


def read(directory: Path, text: str) -> JudgeTemplate:
    return read_template(write(directory, text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "t.yaml:1:8"),
        ("- a", "must be a mapping"),
        (SHORT + "colour: red", "colour: unknown field"),
        (SHORT.replace("name: short", ""), "name: Field required"),
        (SHORT.replace("{{ a }}", "{{ answer }}"), "unknown variable 'answer'"),
        (SHORT.replace("{{ b }}", ""), r"does not show \{\{ b \}\}"),
        (SHORT.replace("{{ b }}", "{{ b "), "text: line 1"),
        (SHORT.replace("{{ b }}", "{{ b.colour }}"), "colour"),
        (SHORT.replace("{{ b }}", "{{ b }}{{ a.__class__.__mro__ }}"), "text: .*unsafe"),
        (SHORT.replace("{{ b }}", "{{ b }}{{ 1 / 0 }}"), "cannot be rendered: division"),
        (SHORT.replace("b: B", "b: A"), "different words"),
        (SHORT.replace("b: B", "c: B"), "of a compare template"),
        (SHORT.replace("{a: A, b: B}", "[A, B]"), "of a compare template"),
        (SHORT + "max: 3", "are for kind: grade"),
        (SHORT + "revision: x", "for kind: critique"),
        (SHORT + "strength: true", "verdict: written"),
        (SHORT + "extends: nobody", "no nobody.yaml beside it .*known: compare"),
        (SHORT + "extends: [compare]", "must be the name of a template"),
        (SHORT + 'hops: [{name: a, text: "x"}]', "'a' is a variable of the item"),
        (SHORT + 'hops: [{name: why, text: "{{ later }}"}]', r"hops\[0\].text: unknown variable 'later'"),
        (SHORT + 'hops: [{name: why, text: "x"}]', "nothing reads what 'why' writes"),
        (SHORT + 'hops: [{name: why, text: "x", choices: [a], schema: {}}]', "only one can say"),
        (SHORT + 'hops: [{name: why, text: "x"}, {name: why, text: "x"}]', "hops: names must be unique"),
        (SHORT + 'hops: [{name: why, text: "x", max_tokens: 0}]', r"hops\[0\].max_tokens"),
        (YES_NO.replace('"Y"', "Yes"), "put labels in quotes"),
        (YES_NO.replace("no:", "maybe:"), "of a grade template"),
        (YES_NO + "min: 1", "of yes/no labels are 0 and 1"),
        (YES_NO.replace('{yes: "Y", no: "N"}', "[good, bad]"), "are the scores as numbers"),
        (YES_NO.replace('{yes: "Y", no: "N"}', "[3, 1]"), "ascending"),
        (YES_NO.replace('{yes: "Y", no: "N"}', "{Good: 2, Bad: 2}"), "at least two different numbers"),
        (YES_NO + "criteria: [{id: x, text: x, levels: {Maybe: so}}]", "levels: 'Maybe' is none of the labels Y, N"),
        (YES_NO + "criteria: [{id: x, text: x, min: 1}]", r"criteria\[0\].*go with labels"),
        ("name: c\nkind: critique\nlabels: [A]\ntext: '{{ completion }}'", "a critique has none"),
        ("name: r\nkind: rank\nlabels: {a: A, b: B}\ntext: '{{ answers }}'", "of a rank template"),
        (YES_NO.replace('{yes: "Y", no: "N"}', "[1]"), "at least two"),
        (YES_NO.replace('{yes: "Y", no: "N"}', "[1, 9]") + "max: 5", r"in \[1, 5\]"),
        (YES_NO + "criteria: [{id: x, text: x}, {id: x, text: y}]", "ids must be unique"),
        (YES_NO + "criteria: [{id: x, text: x, weight: 0}]", r"criteria\[0\].weight"),
    ],
)
def test_a_mistake_is_refused_with_file_and_field(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "t.yaml") in str(caught.value)


def test_missing_and_repeated_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_templates([str(tmp_path / "absent.yaml")])
    with pytest.raises(ConfigError, match="holds no template"):
        load_templates([str(tmp_path)])
    write(tmp_path, SHORT, "one.yaml")
    write(tmp_path, SHORT, "two.yaml")
    with pytest.raises(ConfigError, match=r"two\.yaml: name: 'short' is already the name of .*one\.yaml"):
        load_templates([str(tmp_path)])


def test_builtin_templates_are_found_and_can_be_replaced(tmp_path: Path) -> None:
    templates, own = load_templates([])
    assert {"compare", "compare-concise", "compare-reasoned", "grade-yes-no", "rank-list", "critique"} <= set(templates)
    assert own == []
    replaced, own = load_templates([str(write(tmp_path, SHORT.replace("short", "compare")))])
    assert own == ["compare"]
    assert replaced["compare"].fingerprint != templates["compare"].fingerprint


def test_fingerprint_follows_what_verdicts_depend_on(tmp_path: Path) -> None:
    short = read(tmp_path, SHORT).fingerprint
    assert read(tmp_path, SHORT.replace("name: short", "name: brief")).fingerprint == short
    assert read(tmp_path, SHORT.replace("better", "best")).fingerprint != short
    assert read(tmp_path, SHORT.replace("b: B", "b: C")).fingerprint != short


def test_values_are_put_in_once(tmp_path: Path) -> None:
    template = read(tmp_path, SHORT)
    text = template.render({"prompt": "{{ b }}", "a": "{% if x %}", "b": "{{ a }}", "references": [], "principles": []})
    assert text == "{{ b }} A: {% if x %} B: {{ a }} Which is better?"


def test_labels_are_tokens_with_or_without_a_space(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [tokenizer.convert_ids_to_tokens(list(path)) for path in label_paths(tokenizer, ["A", "B"])] == [["A"], ["B"]]
    ((word,),) = label_paths(tokenizer, ["apples"])
    assert tokenizer.decode([word]) == " apples"
    several, single = label_paths(tokenizer, ["elephant", "B"])
    assert tokenizer.decode(list(several)) == "elephant"
    assert (len(several) > 1, len(single)) == (True, 1)
    assert label_paths(tokenizer, ["elephant", "B"], whole_words=False) == (several[:1], single)
    with pytest.raises(LoadError, match="'elephant' and 'elegant' are the same first token"):
        label_paths(tokenizer, ["elephant", "elegant"], whole_words=False)
    with pytest.raises(LoadError, match="'apples' and ' apples' are the same tokens"):
        label_paths(tokenizer, ["apples", " apples"])
    with pytest.raises(LoadError, match="'zz' is the beginning of 'zzq'"):
        label_paths(tokenizer, ["zzq", "zz"])


def test_a_tree_adds_up_log_probabilities() -> None:
    tree = LabelTree(((1, 2), (1, 3, 4), (5,)))
    assert tree.nodes == (((), (1, 5)), ((1,), (2, 3)), ((1, 3), (4,)))
    assert tree.log_probs([[-1.0, -2.0], [-0.25, -0.5], [-4.0]]) == [-1.25, -5.5, -2.0]


def test_labels_without_chat_template_and_unknown_words(tokenizer: PreTrainedTokenizerFast) -> None:
    from rewardmesh.demo.tokenizer import build_word_tokenizer

    words = build_word_tokenizer(["A B Which ? first"])
    assert [words.convert_ids_to_tokens(list(path)) for path in label_paths(words, ["A", "B"])] == [["A"], [" B"]]
    with pytest.raises(LoadError, match="label 'Z' has no tokens"):
        label_paths(words, ["A", "Z"])
    words.chat_template = None
    assert len(label_paths(words, ["A", "B"])) == 2


def test_control_tokens_are_found(tokenizer: PreTrainedTokenizerFast) -> None:
    pattern = control_tokens(tokenizer)
    assert pattern.findall("x<|user|>y<eos><eos>z<|nobody|>") == ["<|user|>", "<eos>", "<eos>"]


async def test_a_server_refuses_labels_of_its_own_templates_only(judge_model: Path, tmp_path: Path, serve: Serve) -> None:
    bad = write(tmp_path, SHORT.replace("{a: A, b: B}", "{a: zz, b: zzq}"))
    with pytest.raises(LoadError, match="template 'short': label 'zz' is the beginning"):
        await create_server(JudgeConfig(model=str(judge_model), templates=[str(bad)]))
    with pytest.raises(ConfigError, match="default_template: no compare template is named 'x'; known: compare, compare-concise"):
        await create_server(JudgeConfig(model=str(judge_model), default_template="x"))
    with pytest.raises(ValueError, match="overlength"):
        JudgeConfig(model=str(judge_model), overlength="truncate_prompt")


async def test_a_builtin_template_that_the_model_cannot_use_is_refused_on_use(
    judge_model: Path, tmp_path: Path, make_model: Callable[..., Path], serve: Serve
) -> None:
    from rewardmesh.client import CallFailed, pair
    from rewardmesh.demo.tokenizer import build_word_tokenizer

    # As many tokens as the model has, but neither A nor B among them.
    words = build_word_tokenizer(["first second"], [f"word{i}" for i in range(100)])
    model = make_model("causal", edit=lambda causal: causal.resize_token_embeddings(len(words)))
    words.save_pretrained(model)
    template = write(tmp_path, SHORT.replace("{a: A, b: B}", "{a: first, b: second}"))
    settings: dict[str, Any] = {"model": str(model), "templates": [str(template)], "default_template": "", "default_rubric": ""}
    async with serve(**settings) as client:
        (result,) = await client.compare([pair("p", "first", "second", "first second")])
        assert result.value is not None
        with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*template 'compare': label 'A' has no tokens"):
            await client.compare([pair("p", "first", "second", "first second")], template="compare")
    with pytest.raises(LoadError, match="no default template can be used"):
        await create_server(JudgeConfig(model=str(model)))
