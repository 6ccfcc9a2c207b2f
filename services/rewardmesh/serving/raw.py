"""Raw samples: text (or token ids) that a model reads as it is, without a chat template.

For callers whose protocol sends whole texts that are templated already. A raw sample has the tag `rewardmesh.template`; its text is the
contents of the prompt's messages and the completion, joined as they are. The prompt may be empty; where it is given, samples of one
prompt share its computation, as ever. The tag's value says which special tokens are added: "none", or with "tokenizer" those that the
model's tokenizer adds to any plain text by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from rewardmesh.client import answer, sample, unpack_ints
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

TEMPLATE_TAG = "rewardmesh.template"
Template = Literal["none", "tokenizer"]
_TEMPLATES: tuple[Template, ...] = ("none", "tokenizer")


def raw_sample(
    id: str,
    text: str,
    *,
    prompt: str = "",
    template: Template = "none",
    token_ids: Iterable[int] | None = None,
    group_id: str = "",
    tags: Mapping[str, str] | None = None,
    references: Iterable[str] = (),
) -> pb.Sample:
    """A raw sample of `prompt + text`; with token_ids those are what the model reads, and there is no prompt."""
    return sample(
        id,
        [("user", prompt)] if prompt else [],
        answer(text, token_ids=token_ids),
        group_id=group_id,
        tags={**(tags or {}), TEMPLATE_TAG: template},
        references=list(references),
    )


def is_raw(sample: pb.Sample) -> bool:
    """Whether the sample's text is read as it is."""
    return TEMPLATE_TAG in sample.tags


def raw_problem(sample: pb.Sample, vocabulary: int) -> pb.Absence | None:
    """What makes a raw sample unfit to be scored; None when fit. vocabulary: number of token ids that the model knows."""
    template = sample.tags[TEMPLATE_TAG]
    if template not in _TEMPLATES:
        return _invalid(f"tags[{TEMPLATE_TAG}]: {template!r} is unknown; one of {', '.join(_TEMPLATES)}")
    if not sample.completion.HasField("token_ids"):
        return None if sample.completion.text else _invalid("completion.text: is empty, there is nothing to score")
    if sample.prompt:
        return _invalid("completion.token_ids: a raw sample of token ids has no prompt beside them")
    try:
        ids = unpack_ints(sample.completion.token_ids)
    except ValueError as error:
        return _invalid(f"completion.token_ids: {error}")
    if not ids:
        return _invalid("completion.token_ids: is empty, there is nothing to score")
    low, high = min(ids), max(ids)
    if low < 0 or high >= vocabulary:
        return _invalid(f"completion.token_ids: {low if low < 0 else high} is no token of the model, which has {vocabulary}")
    return None


def _invalid(detail: str) -> pb.Absence:
    return absence(pb.ABSENCE_REASON_INVALID_INPUT, detail)
