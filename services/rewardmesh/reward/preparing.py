"""From samples to work for the batcher: the chat template's text, its token ids, what a sample shares with those of its prompt.

Texts are tokenised many at a time. A call is cut into parts, so that the first of them is computed while the others are tokenised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jinja2 import TemplateError

from rewardmesh.engine.cached import model_keys
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.packing import common_prefix
from rewardmesh.engine.text import encode, fit, render
from rewardmesh.reward.raw import prefix_groups, raw_group, raw_ids, raw_prompt_ids
from rewardmesh.serving.batching import Work
from rewardmesh.serving.caching import KeyMaker
from rewardmesh.serving.raw import is_raw, raw_problem
from rewardmesh.serving.validation import absence, sample_problem
from rewardmesh.v1 import common_pb2 as pb

Overlength = Literal["refuse", "truncate_prompt"]
PART = 32
"""Samples of a part at least; a few milliseconds of tokenising."""


@dataclass(frozen=True)
class Prepared:
    """A sample as the engine takes it, or the problem that keeps it out."""

    work: Work[list[int]]
    truncated: bool
    problem: pb.Absence | None


def parts(samples: Sequence[pb.Sample]) -> Iterator[Sequence[pb.Sample]]:
    """Runs of samples; those of one prompt that are neighbours stay together. Raw samples find their prompts only in the whole."""
    start = 0
    if not any(map(is_raw, samples)):
        for end in range(1, len(samples)):
            if end - start >= PART and samples[end].prompt != samples[end - 1].prompt:
                yield samples[start:end]
                start = end
    yield samples[start:]


def prepare(model: ServedModel, samples: Sequence[pb.Sample], service: str, overlength: Overlength) -> list[Prepared]:
    """Tokenise samples, in order.

    Args:
        service: in the keys of the cache.
        overlength: what to do with input that is longer than the model takes.
    """
    inputs = [_input(model, sample) for sample in samples]
    groups = [raw_group(sample) if is_raw(sample) else _prompt_key(sample) for sample in samples]
    prompts: dict[bytes, _Input] = {}
    for sample, given, group in zip(samples, inputs, groups, strict=True):
        if group not in prompts and not isinstance(given, pb.Absence):
            prompts[group] = _prompt(model, sample)
    found = _tokenised(model.tokenizer, [*prompts.values(), *inputs])
    prompt_ids = dict(zip(prompts, found, strict=False))
    keys = model_keys(service, model, "scores")
    prepared = [
        _prepared(model, ids, group, prompt_ids.get(group), keys, overlength)
        for ids, group in zip(found[len(prompts) :], groups, strict=True)
    ]
    whole = [at for at, (sample, ready) in enumerate(zip(samples, prepared, strict=True)) if _whole_text(sample, ready)]
    for at, (group, shared) in zip(whole, prefix_groups([prepared[at].work.payload for at in whole]), strict=True):
        prepared[at] = replace(prepared[at], work=replace(prepared[at].work, group=group, shared_tokens=model.shareable(shared)))
    return prepared


_Input = list[int] | str | pb.Absence
"""Token ids, text that has yet to become some, or what is wrong with a sample."""


def _input(model: ServedModel, sample: pb.Sample) -> _Input:
    if is_raw(sample):
        return raw_problem(sample, model.vocabulary) or raw_ids(model.tokenizer, sample)
    try:
        return sample_problem(sample) or render(model.tokenizer, sample.prompt, sample.completion.text)
    except TemplateError as error:
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"prompt: the model's chat template refuses it: {error}")


def _prompt(model: ServedModel, sample: pb.Sample) -> _Input:
    """What the sample shares with others of its prompt, as far as that can be said without the answer."""
    if is_raw(sample):
        return raw_prompt_ids(model.tokenizer, sample)
    try:
        return render(model.tokenizer, sample.prompt)
    except TemplateError:  # a template may insist on an answer
        return []


def _tokenised(tokenizer: Any, inputs: Sequence[_Input]) -> list[list[int] | pb.Absence]:
    encoded = iter(encode(tokenizer, [given for given in inputs if isinstance(given, str)]))
    return [next(encoded) if isinstance(given, str) else given for given in inputs]


def _prepared(
    model: ServedModel,
    ids: list[int] | pb.Absence,
    group: bytes,
    prompt: list[int] | pb.Absence | None,
    keys: KeyMaker,
    overlength: Overlength,
) -> Prepared:
    if isinstance(ids, pb.Absence):
        return Prepared(Work([], model, "", 0), False, ids)
    if not ids:
        return Prepared(Work([], model, "", 0), False, absence(pb.ABSENCE_REASON_INVALID_INPUT, "the text has no tokens"))
    shared = common_prefix(prompt, ids) if isinstance(prompt, list) else 0
    fitted = fit(ids, model.max_tokens, overlength, keep=len(ids) - shared)
    if isinstance(fitted, pb.Absence):
        return Prepared(Work([], model, group, len(ids)), False, fitted)
    fitting, cut = fitted
    # Inputs that were cut begin at different tokens: they share nothing.
    sharing = 0 if cut else model.shareable(shared)
    return Prepared(Work(fitting, model, group, len(fitting), shared_tokens=sharing, key=keys.key(fitting)), cut, None)


def _prompt_key(sample: pb.Sample) -> bytes:
    return b"".join(message.SerializeToString(deterministic=True) for message in sample.prompt)


def _whole_text(sample: pb.Sample, ready: Prepared) -> bool:
    """Whether the sample is raw and its prompt was not told apart; a cut text begins anywhere and shares nothing."""
    return is_raw(sample) and not sample.prompt and ready.problem is None and not ready.truncated
