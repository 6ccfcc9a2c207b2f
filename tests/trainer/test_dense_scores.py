"""Token and span rewards of the mesh's answers, on the tokens of a rollout."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from rewardmesh.client import Evaluation
from rewardmesh.client.arrays import pack_floats, pack_ints
from rewardmesh.trainer.dense_scores import dense_scores
from rewardmesh.trainer.samples import RewardSpan, Rollout
from rewardmesh.v1.common_pb2 import (
    TOKEN_ALIGNMENT_CHARACTERS,
    TOKEN_ALIGNMENT_TOKEN_IDS,
    Outcome,
    Reward,
    Span,
    TokenValues,
)
from rewardmesh.v1.judge_service_pb2 import Critique, CritiqueOutcome
from rewardmesh.v1.mesh_service_pb2 import Component
from rewardmesh.v1.mesh_service_pb2 import Evaluation as EvaluationMessage
from rewardmesh.v1.verifier_service_pb2 import Location, Verdict, VerdictOutcome

MakeRollout = Callable[..., Rollout]
TOKENS = ["One", " and", " two", ""]


def _decode(ids: Sequence[int]) -> str:
    return "".join(TOKENS[id_] for id_ in ids)


def _evaluation(id_: str, composed: Reward | None = None, **signals: Reward) -> Evaluation:
    components = [
        Component(signal=name, value=reward.value, reward=Outcome(sample_id=id_, reward=reward)) for name, reward in signals.items()
    ]
    return Evaluation.from_proto(
        EvaluationMessage(outcome=Outcome(sample_id=id_, reward=composed or Reward(value=1.0)), components=components)
    )


def _ids(*values: float) -> TokenValues:
    return TokenValues(values=pack_floats(values), alignment=TOKEN_ALIGNMENT_TOKEN_IDS)


def _rollout(make_rollout: MakeRollout, tokens: int = 4) -> Rollout:
    return make_rollout("a", "g", [-1.0] * tokens)


def test_nothing_given_is_nothing(make_rollout: MakeRollout) -> None:
    assert dense_scores([_evaluation("a", helpful=Reward(value=1.0))], [_rollout(make_rollout)], _decode) == [(None, None)]


def test_token_values_of_several_signals_add_up(make_rollout: MakeRollout) -> None:
    characters = TokenValues(
        values=pack_floats([4.0, 8.0]), alignment=TOKEN_ALIGNMENT_CHARACTERS, character_offsets=pack_ints([0, 5, 5, 11])
    )
    evaluation = _evaluation("a", first=Reward(tokens=_ids(1, 0, 0, 2)), second=Reward(tokens=characters), third=Reward(value=3.0))
    ((tokens, spans),) = dense_scores([evaluation], [_rollout(make_rollout)], _decode)
    assert tokens is not None
    assert tokens.tolist() == [1, 4, 8, 2]
    assert spans is None


def test_the_composed_reward_comes_before_its_signals(make_rollout: MakeRollout) -> None:
    evaluation = _evaluation("a", Reward(tokens=_ids(1, 1, 1, 1)), first=Reward(tokens=_ids(9, 9, 9, 9)))
    ((tokens, _),) = dense_scores([evaluation], [_rollout(make_rollout)], _decode)
    assert tokens is not None
    assert tokens.tolist() == [1, 1, 1, 1]


def test_spans_are_of_tokens_and_remarks_are_none(make_rollout: MakeRollout) -> None:
    found = Reward(spans=[Span(start=4, end=7, value=-1.0), Span(start=0, end=3, comment="fine"), Span(start=90, end=95, value=5.0)])
    first, second = _rollout(make_rollout), replace(_rollout(make_rollout), id="b")
    evaluations = [_evaluation("a", critique=found, other=Reward()), _evaluation("b", critique=Reward(), other=Reward())]
    dense = dense_scores(evaluations, [first, second], _decode)
    assert dense[0] == (None, (RewardSpan(1, 2, -1.0),))
    assert dense[1] == (None, ())  # the signal spoke of the other one: here it found nothing to say


def test_a_given_beginning_is_not_paid(make_rollout: MakeRollout) -> None:
    """The answer is "One and two", of which the first two tokens are the prompt's."""
    rollout = replace(
        make_rollout("a", "g", [-1.0, -1.0]), prompt_ids=np.array([7, 0, 1]), completion_ids=np.array([2, 3]), prefix_tokens=2
    )
    reward = Reward(tokens=_ids(1, 2, 3, 4), spans=[Span(start=5, end=10, value=1.0), Span(start=0, end=3, value=9.0)])
    ((tokens, spans),) = dense_scores([_evaluation("a", only=reward)], [rollout], _decode)
    assert tokens is not None
    assert tokens.tolist() == [3, 4]
    assert spans == (RewardSpan(0, 1, 1.0),)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (_ids(1, 2), "are 2 for 4 tokens"),
        (TokenValues(values=pack_floats([1.0])), "no alignment"),
        (TokenValues(values=pack_floats([1.0]), alignment=TOKEN_ALIGNMENT_CHARACTERS), "0 character offsets"),
    ],
)
def test_values_that_do_not_fit_are_refused(make_rollout: MakeRollout, tokens: TokenValues, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_scores([_evaluation("a", only=Reward(tokens=tokens))], [_rollout(make_rollout)], _decode)


def test_the_points_of_a_critique_are_spans_even_when_its_signal_has_no_value(make_rollout: MakeRollout) -> None:
    critique = Critique(text="two is wrong", spans=[Span(start=8, end=11, value=-1.0), Span(start=0, end=3, comment="a remark")])
    said = Component(signal="critic", critique=CritiqueOutcome(sample_id="a", critique=critique))
    silent = Component(signal="critic", critique=CritiqueOutcome(sample_id="b", critique=Critique(text="nothing to say")))
    evaluations = [
        Evaluation.from_proto(EvaluationMessage(outcome=Outcome(sample_id=name, reward=Reward(value=1.0)), components=[component]))
        for name, component in (("a", said), ("b", silent))
    ]
    rollouts = [make_rollout(name, "g", [-1.0] * 3) for name in ("a", "b")]
    (_, spans), (_, none) = dense_scores(evaluations, rollouts, _decode)
    assert spans == (RewardSpan(2, 3, -1.0),)
    assert none == ()


@pytest.mark.parametrize(
    ("span", "wanted"), [(Span(start=8, end=11, value=-1.0), (RewardSpan(2, 3, -1.0),)), (Span(start=8, end=11), None)]
)
def test_where_a_verdict_was_decided_is_a_span_when_it_has_a_value(
    make_rollout: MakeRollout, span: Span, wanted: tuple[RewardSpan, ...] | None
) -> None:
    verdict = VerdictOutcome(sample_id="a", verdict=Verdict(location=Location(line=1, span=span)))
    message = EvaluationMessage(
        outcome=Outcome(sample_id="a", reward=Reward(value=0.0)), components=[Component(signal="correct", verdict=verdict)]
    )
    assert dense_scores([Evaluation.from_proto(message)], [make_rollout("a", "g", [-1.0] * 3)], _decode) == [(None, wanted)]
