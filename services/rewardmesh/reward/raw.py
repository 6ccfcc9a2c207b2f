"""Token ids of raw samples (see `rewardmesh.serving.raw`), and the prompts that they share without saying so."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rewardmesh.client import unpack_ints
from rewardmesh.engine.packing import common_prefix
from rewardmesh.serving.raw import TEMPLATE_TAG
from rewardmesh.v1 import common_pb2 as pb

_LEAST_SHARED = 16
"""Tokens; to compute fewer of them once is not worth being kept together."""


def raw_ids(tokenizer: Any, sample: pb.Sample) -> list[int]:
    """What the model reads: the sample's own ids, or those of its whole text."""
    if sample.completion.HasField("token_ids"):
        return list(unpack_ints(sample.completion.token_ids))
    return _encode(tokenizer, _prompt(sample) + sample.completion.text, sample)


def raw_prompt_ids(tokenizer: Any, sample: pb.Sample) -> list[int]:
    """Ids of the prompt's text alone; the ids of its samples begin with most of them, as text is cut into tokens across the seam."""
    prompt = _prompt(sample)
    return _encode(tokenizer, prompt, sample) if prompt else []


def raw_group(sample: pb.Sample) -> bytes:
    """What is equal for samples that share a prompt; a sample without one is a group of its own."""
    completion = sample.completion
    own = completion.token_ids.data if completion.HasField("token_ids") else completion.text.encode()
    prompt = _prompt(sample).encode()
    return b"raw prompt " + sample.tags[TEMPLATE_TAG].encode() + b" " + prompt if prompt else b"raw text " + own


def prefix_groups(sequences: Sequence[list[int]]) -> list[tuple[bytes, int]]:
    """Find the prompts of whole texts: which of them begin alike, and for how long.

    Sorted, texts of one prompt are neighbours. A group ends where neighbours have less than half as many tokens in common as the
    neighbours before or after, or too few to be worth it: a system prompt that all texts have does not make one group of them.

    Returns:
        For each sequence its group and the tokens that it shares with all of that group (0 when it is alone).
    """
    order = sorted(range(len(sequences)), key=lambda at: sequences[at])
    alike = [common_prefix(sequences[a], sequences[b]) for a, b in pairwise(order)]
    found = [(b"", 0)] * len(sequences)
    start = 0
    for place in range(len(order)):
        if place < len(alike) and alike[place] >= max(_LEAST_SHARED, max(alike[max(place - 1, start) : place + 2]) / 2):
            continue
        members = order[start : place + 1]
        # Every text has a token of its own, the last, where its score is read.
        shared = min([*alike[start:place], *(len(sequences[member]) - 1 for member in members)]) if len(members) > 1 else 0
        prefix = array("i", sequences[members[0]][: shared or None])
        group = b"raw prefix " + hashlib.blake2b(prefix.tobytes(), digest_size=16).digest()
        for member in members:
            found[member] = (group, shared)
        start = place + 1
    return found


def _prompt(sample: pb.Sample) -> str:
    return "".join(message.content for message in sample.prompt)


def _encode(tokenizer: Any, text: str, sample: pb.Sample) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=sample.tags[TEMPLATE_TAG] == "tokenizer")["input_ids"]
    return ids
