"""The demo's tokenizer: lossless text, numbers whole, and ids that survive saving."""

from pathlib import Path

from transformers import AutoTokenizer

from rewardmesh.demo.problems import generate
from rewardmesh.demo.tokenizer import build_word_tokenizer

PROBLEMS = generate(300, 0, "train")
TEXTS = [text for problem in PROBLEMS for text in (problem.question, problem.answer)]


def test_decoding_gives_the_text_back() -> None:
    tokenizer = build_word_tokenizer(TEXTS)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_numbers_and_extra_words_are_single_tokens() -> None:
    tokenizer = build_word_tokenizer(TEXTS, [" 97", "T"])
    assert tokenizer.tokenize("#### 97") == ["####", " 97"]
    assert len(tokenizer("T", add_special_tokens=False)["input_ids"]) == 1


def test_a_prompt_ends_where_the_answer_begins() -> None:
    tokenizer = build_word_tokenizer(TEXTS)
    question = [{"role": "user", "content": PROBLEMS[0].question}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=True, return_dict=False)
    whole = tokenizer.apply_chat_template(
        [*question, {"role": "assistant", "content": PROBLEMS[0].answer}], tokenize=True, return_dict=False
    )
    assert tokenizer.convert_ids_to_tokens(prompt)[-1] == "<assistant>"
    assert whole[: len(prompt)] == prompt
    assert whole[-1] == tokenizer.eos_token_id


def test_an_unknown_word_is_unknown_and_not_an_error() -> None:
    tokenizer = build_word_tokenizer(TEXTS)
    assert tokenizer.unk_token_id in tokenizer("Zzyzx has 3 quarks.", add_special_tokens=False)["input_ids"]


def test_ids_do_not_depend_on_the_order_of_texts_and_survive_saving(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer(TEXTS)
    assert tokenizer.get_vocab() == build_word_tokenizer(reversed(TEXTS)).get_vocab()
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS[1])["input_ids"] == tokenizer(TEXTS[1])["input_ids"]
