"""What the scoring benchmark asks about: rounds share nothing, counts of tokens are exact, text is real where there is any."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.scoring.local import cut_by_budget
from benchmarks.scoring.ours import samples
from benchmarks.scoring.reference import grouped
from benchmarks.scoring.workloads import Sizes, exactly, read_text, warm_up, workload_a, workload_b, workload_c

from rewardmesh.engine.packing import make_plan

SIZES = Sizes(questions=2, groups=2, dialogues=5, warm_up=3, prompt_tokens=40, answers=3, answer_tokens=10)


def test_rounds_have_different_questions_and_groups_of_four(tokenizer: Any) -> None:
    workload = workload_a(tokenizer, read_text(None, 6), SIZES, 3)
    assert [len(items) for items in workload.rounds] == [8, 8, 8]
    prompts = [{item.prompt for item in items} for items in workload.rounds]
    assert len(set.union(*prompts)) == 6
    for items in workload.rounds:
        assert [item.group for item in items] == [0] * 4 + [1] * 4
        assert len({(item.prompt, item.completion) for item in items}) == 8


def test_long_prompts_have_exactly_the_tokens_wanted(tokenizer: Any) -> None:
    workload = workload_b(tokenizer, read_text(None, 2), SIZES, 2)
    items = [item for part in workload.rounds for item in part]
    assert len(items) == 2 * 2 * 3
    assert len({item.prompt for item in items}) == 4
    assert {len(tokenizer(item.prompt)["input_ids"]) for item in items} == {40}
    assert {len(tokenizer(item.completion)["input_ids"]) for item in items} == {10}


def test_exactly_reports_text_that_is_too_short(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="too short"):
        exactly(tokenizer, iter(["one", "two"]), 100)


def test_dialogues_share_nothing_and_none_is_in_the_warm_up(tokenizer: Any) -> None:
    text = read_text(None, 2)
    workload = workload_c(tokenizer, text, SIZES, 2)
    prompts = [item.prompt for items in workload.rounds for item in items]
    assert len(set(prompts)) == len(prompts) == 10
    lengths = sorted(len(item.ids) for items in workload_c(tokenizer, text, Sizes(1, 1, 100), 1).rounds for item in items)
    assert lengths[-1] > 4 * lengths[len(lengths) // 2], "long-tailed"
    warm = warm_up(tokenizer, text, SIZES)
    assert len(warm) == 3
    assert not {item.prompt for item in warm} & set(prompts)


def test_real_text_is_read_from_a_folder(tokenizer: Any, tmp_path: Path) -> None:
    question = {"question": "How many?", "answers": [{"solution": answer} for answer in ("two", "three", "two", "four")]}
    (tmp_path / "gsm8k_model_answers.jsonl").write_text(json.dumps(question))
    dialogue = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: A riddle?\n\nAssistant: What has keys?"
    with gzip.open(tmp_path / "hh_harmless_pairs.jsonl.gz", "wt") as file:
        file.write(json.dumps({"chosen": dialogue, "rejected": "no"}))
    text = read_text(tmp_path, 1)
    assert text.questions[0].answers == ("two", "three", "four", "two."), "what repeats an answer would be computed once"
    assert text.dialogues == [("Human: Hi.\n\nAssistant: Hello.\n\nHuman: A riddle?", "What has keys?")]
    assert workload_a(tokenizer, text, SIZES, 1).source.startswith("GSM8K")


def test_batches_keep_groups_together_within_the_budget() -> None:
    items = [(0, [1, 2, 3]), (0, [1, 2, 4]), (1, [5] * 6), (2, [7, 8]), (2, [7, 9])]
    batches = cut_by_budget(items, 7)
    assert batches == [[[1, 2, 3], [1, 2, 4]], [[5] * 6], [[7, 8], [7, 9]]]
    assert all(len(make_plan(batch).token_ids) <= 7 for batch in batches)
    assert [len(batch) for batch in cut_by_budget(items, 100)] == [5]


def test_samples_carry_the_texts_and_groups(tokenizer: Any) -> None:
    items = workload_a(tokenizer, read_text(None, 2), SIZES, 1).rounds[0]
    made = samples(items, "x")
    assert [one.prompt[0].content for one in made] == [item.prompt for item in items]
    assert len({one.id for one in made}) == len(items)
    assert len({one.group_id for one in made}) == 2
    assert [len(group) for group in grouped(items)] == [4, 4]
