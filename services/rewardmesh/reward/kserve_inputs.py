"""Inputs of an inference request as samples. `kserve` says which there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from rewardmesh.client import message, sample
from rewardmesh.reward.tensors import Tensor, texts
from rewardmesh.serving.errors import invalid_argument
from rewardmesh.serving.raw import raw_sample
from rewardmesh.v1 import common_pb2 as pb

INPUTS: dict[str, tuple[str, ...]] = {
    "prompt": ("BYTES",),
    "completion": ("BYTES",),
    "text": ("BYTES",),
    "input_ids": ("INT32", "INT64"),
    "lengths": ("INT32", "INT64"),
    "attention_mask": ("INT32", "INT64", "BOOL"),
}
"""Datatypes that each input may have."""

_WAYS = (frozenset({"prompt", "completion"}), frozenset({"text"}), frozenset({"input_ids"}))
_BESIDE_IDS = frozenset({"lengths", "attention_mask"})


def samples_of(inputs: Mapping[str, Tensor]) -> list[pb.Sample]:
    """One sample an item; its id is its place.

    Raises:
        CallError: INVALID_ARGUMENT naming the input.
    """
    given = frozenset(inputs)
    if given - _BESIDE_IDS not in _WAYS or (given & _BESIDE_IDS and "input_ids" not in given):
        raise invalid_argument("inputs", f"are {', '.join(inputs) or 'none'}; send prompt and completion, or text, or input_ids")
    if "text" in inputs:
        return [raw_sample(str(index), text) for index, text in enumerate(texts(inputs["text"]))]
    if "input_ids" in inputs:
        return [raw_sample(str(index), "", token_ids=row) for index, row in enumerate(_rows(inputs))]
    prompts, completions = texts(inputs["prompt"]), texts(inputs["completion"])
    if len(prompts) == 1:
        prompts *= len(completions)
    if len(prompts) != len(completions):
        raise invalid_argument("inputs[prompt].shape", f"holds {len(prompts)} prompts for {len(completions)} completions")
    pairs = zip(prompts, completions, strict=True)
    return [sample(str(index), _dialogue(prompt, index), completion) for index, (prompt, completion) in enumerate(pairs)]


def _rows(inputs: Mapping[str, Tensor]) -> list[list[int]]:
    ids = inputs["input_ids"]
    if len(ids.shape) != 2:
        raise invalid_argument("inputs[input_ids].shape", f"{list(ids.shape)} is not [n, L]")
    if ids.values.size and not -(2**31) <= ids.values.min() <= ids.values.max() < 2**31:
        raise invalid_argument("inputs[input_ids]", "holds a number that is no token id")
    count, width = ids.shape
    if frozenset(inputs) >= _BESIDE_IDS:
        raise invalid_argument("inputs[lengths]", "say the same as attention_mask; send one of them")
    if "attention_mask" in inputs:
        mask = inputs["attention_mask"]
        if mask.shape != ids.shape:
            raise invalid_argument("inputs[attention_mask].shape", f"{list(mask.shape)} is not that of input_ids, {list(ids.shape)}")
        return [row[seen != 0].tolist() for row, seen in zip(ids.values, mask.values, strict=True)]
    if "lengths" not in inputs:
        return cast(list[list[int]], ids.values.tolist())
    lengths = inputs["lengths"].values.reshape(-1)
    if len(lengths) != count:
        raise invalid_argument("inputs[lengths].shape", f"holds {len(lengths)} lengths for {count} rows")
    for index, length in enumerate(lengths):
        if not 0 <= length <= width:
            raise invalid_argument(f"inputs[lengths][{index}]", f"{length} is no length of a row of {width}")
    return [row[:length].tolist() for row, length in zip(ids.values, lengths, strict=True)]


def _dialogue(text: str, index: int) -> str | list[pb.Message]:
    """A text, or the messages that it is JSON of."""
    if not text.lstrip().startswith("["):
        return text
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not turns or not all(isinstance(turn, dict) and isinstance(turn.get("role"), str) and "content" in turn for turn in turns):
        return text
    try:
        return [message(turn["role"], turn["content"], name=turn.get("name", "")) for turn in turns]
    except (ValueError, TypeError) as error:
        raise invalid_argument(f"inputs[prompt][{index}]", str(error)) from error
