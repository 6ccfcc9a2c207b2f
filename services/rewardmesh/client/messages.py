"""Constructors for the messages a caller sends, so that no one spells out protobuf by hand.

    sample("a", "What is 2 + 2?", "4", references=["4"])
    pair("a-b", "What is 2 + 2?", "4", "5")

A prompt is a str (one user message), or a sequence of `Message`s or (role, content) pairs.
A completion is a str or a `Completion` (built by `answer`).
"""

from collections.abc import Iterable, Mapping, Sequence

from rewardmesh.client.arrays import pack_floats, pack_ints
from rewardmesh.v1.common_pb2 import Completion, Context, FinishReason, Message, ModelRef, Role, Sample
from rewardmesh.v1.generation_service_pb2 import GenerationPrompt
from rewardmesh.v1.judge_service_pb2 import Pair, RankGroup
from rewardmesh.v1.log_prob_service_pb2 import TokenPrefix, TokenSequence

Prompt = str | Sequence[Message | tuple[str, str]]
Model = str | ModelRef | None

_ROLES: "Mapping[str, Role.ValueType]" = {
    "system": Role.ROLE_SYSTEM,
    "user": Role.ROLE_USER,
    "assistant": Role.ROLE_ASSISTANT,
    "tool": Role.ROLE_TOOL,
}
_FINISH_REASONS: "Mapping[str, FinishReason.ValueType]" = {
    "": FinishReason.FINISH_REASON_UNSPECIFIED,
    "stop": FinishReason.FINISH_REASON_STOP,
    "length": FinishReason.FINISH_REASON_LENGTH,
    "aborted": FinishReason.FINISH_REASON_ABORTED,
}


def message(role: str, content: str, *, name: str = "") -> Message:
    """One message; role is "system", "user", "assistant" or "tool", anything else raises ValueError."""
    if role not in _ROLES:
        raise ValueError(f"unknown role {role!r}: one of {', '.join(_ROLES)}")
    return Message(role=_ROLES[role], content=content, name=name)


def messages(prompt: Prompt) -> list[Message]:
    """The dialogue a prompt stands for; a str is one user message."""
    if isinstance(prompt, str):
        return [message("user", prompt)]
    return [turn if isinstance(turn, Message) else message(*turn) for turn in prompt]


def answer(
    text: str,
    *,
    token_ids: Iterable[int] | None = None,
    sampling_log_probs: Iterable[float] | None = None,
    finish_reason: str = "",
    policy: Model = None,
) -> Completion:
    """An answer; `sampling_log_probs` (nats) has one value a token id. finish_reason is "", "stop", "length" or "aborted"."""
    if finish_reason not in _FINISH_REASONS:
        raise ValueError(f"unknown finish reason {finish_reason!r}: one of stop, length, aborted or empty")
    built = Completion(
        text=text,
        token_ids=None if token_ids is None else pack_ints(token_ids),
        sampling_log_probs=None if sampling_log_probs is None else pack_floats(sampling_log_probs),
        finish_reason=_FINISH_REASONS[finish_reason],
        policy=model_ref(policy),
    )
    if sampling_log_probs is not None and built.sampling_log_probs.length != built.token_ids.length:
        raise ValueError(f"{built.sampling_log_probs.length} sampling log-probs for {built.token_ids.length} token ids")
    return built


def sample(
    id: str,
    prompt: Prompt,
    completion: str | Completion,
    *,
    group_id: str = "",
    references: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    context: Context | None = None,
    prompt_ids: Iterable[int] | None = None,
    completion_ids: Iterable[int] | None = None,
    step_starts: Sequence[int] = (),
) -> Sample:
    """A prompt with one answer. `completion_ids` are the token ids of a str answer; a `Completion` brings its own."""
    if isinstance(completion, Completion) and completion_ids is not None:
        raise ValueError("completion_ids belong to an answer given as str; put them into the Completion")
    return Sample(
        id=id,
        prompt=messages(prompt),
        completion=completion if isinstance(completion, Completion) else answer(completion, token_ids=completion_ids),
        group_id=group_id,
        references=references,
        tags=tags or {},
        context=context,
        prompt_token_ids=None if prompt_ids is None else pack_ints(prompt_ids),
        step_starts=step_starts,
    )


def pair(
    id: str, prompt: Prompt, a: str | Completion, b: str | Completion, *, references: Sequence[str] = (), context: Context | None = None
) -> Pair:
    """Two answers to one prompt, for `compare`."""
    return Pair(
        id=id,
        prompt=messages(prompt),
        a=a if isinstance(a, Completion) else answer(a),
        b=b if isinstance(b, Completion) else answer(b),
        references=references,
        context=context,
    )


def rank_group(
    id: str,
    prompt: Prompt,
    completions: Iterable[str | Completion],
    *,
    references: Sequence[str] = (),
    context: Context | None = None,
) -> RankGroup:
    """Answers to one prompt, at least two, for `rank`."""
    answers = [each if isinstance(each, Completion) else answer(each) for each in completions]
    if len(answers) < 2:
        raise ValueError(f"group {id!r} has {len(answers)} answers; a ranking takes at least 2")
    return RankGroup(id=id, prompt=messages(prompt), completions=answers, references=references, context=context)


def token_prefix(id: str, token_ids: Iterable[int]) -> TokenPrefix:
    """A prefix as token ids, for `score_suffixes`."""
    return TokenPrefix(id=id, token_ids=pack_ints(token_ids))


def token_sequence(id: str, prompt_ids: Iterable[int], completion_ids: Iterable[int]) -> TokenSequence:
    """A prompt and its completion as token ids, for `score_tokens`."""
    return TokenSequence(id=id, prompt_ids=pack_ints(prompt_ids), completion_ids=pack_ints(completion_ids))


def generation_prompt(id: str, prompt: Prompt | None = None, *, token_ids: Iterable[int] | None = None) -> GenerationPrompt:
    """A prompt to continue, for `generate`: either a dialogue or token ids."""
    if (prompt is None) == (token_ids is None):
        raise ValueError("a generation prompt is either a dialogue or token ids")
    return GenerationPrompt(
        id=id,
        messages=[] if prompt is None else messages(prompt),
        token_ids=None if token_ids is None else pack_ints(token_ids),
    )


def model_ref(model: Model, version: int = 0) -> ModelRef | None:
    """A reference to a model by name ("" is the service's default); None and ModelRefs pass through."""
    return ModelRef(name=model, version=version) if isinstance(model, str) else model
