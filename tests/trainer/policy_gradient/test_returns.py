"""Critic-free credit: baselines by hand, where the KL goes, who is left out, penalties, whitening, aggregation."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardmesh.trainer.credit import (
    ImportanceCorrection,
    RunningStatistics,
    ScoreRule,
    TokenCredit,
    TokenLayout,
    aggregation_weights,
    importance_weights,
    leave_one_out,
    macro_starts,
    return_credit,
    token_credit,
)
from rewardmesh.trainer.credit.baselines import group_standard
from rewardmesh.trainer.credit.importance import ImportanceBound, ImportanceLevel
from rewardmesh.trainer.samples import Group, Rollout, Scores, all_rollouts

MakeGroup = Callable[..., Group]
MakeRollout = Callable[..., Rollout]
Floats = npt.NDArray[np.float64]


def _by_rollout(credit: TokenCredit) -> dict[str, list[float]]:
    parts = torch.split(credit.advantages, list(credit.layout.lengths))
    return {rollout.id: part.tolist() for rollout, part in zip(credit.rollouts, parts, strict=True)}


def _first(credit: TokenCredit) -> dict[str, float]:
    return {id_: tokens[0] for id_, tokens in _by_rollout(credit).items()}


def _kl(group: Group) -> list[Floats]:
    return [
        rollout.sampling_log_probs.astype(np.float64) - reference
        for rollout, reference in zip(group.rollouts, group.reference_log_probs, strict=True)
        if reference is not None
    ]


def _with_greedy(group: Group, index: int) -> Group:
    rollouts = tuple(replace(r, source="greedy") if k == index else r for k, r in enumerate(group.rollouts))
    return replace(group, rollouts=rollouts)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("none", [1.0, 2.0, 6.0]),
        ("leave_one_out", [-3.0, -1.5, 4.5]),
        ("group_mean", [-2.0, -1.0, 3.0]),
        ("group_standard", [-2 / (7**0.5 + 1e-4), -1 / (7**0.5 + 1e-4), 3 / (7**0.5 + 1e-4)]),
    ],
)
def test_group_baselines(make_group: MakeGroup, baseline: str, expected: list[float]) -> None:
    credit = return_credit([make_group("g", [1.0, 2.0, 6.0], with_reference=False)], baseline=baseline)  # type: ignore[arg-type]
    assert list(_first(credit).values()) == pytest.approx(expected, rel=1e-6)
    assert all(len(set(tokens)) == 1 for tokens in _by_rollout(credit).values())


def test_the_kl_of_a_whole_completion_is_in_its_return(make_group: MakeGroup) -> None:
    group = make_group("g", [1.0, 2.0, 6.0])
    returns = np.array([1.0, 2.0, 6.0]) - 0.1 * np.array([kl.sum() for kl in _kl(group)])
    credit = return_credit([group], baseline="leave_one_out", kl_coef=0.1)
    expected = [returns[i] - np.delete(returns, i).mean() for i in range(3)]
    assert list(_first(credit).values()) == pytest.approx(expected, rel=1e-5)
    assert credit.metrics["kl"] == pytest.approx(np.mean([kl.sum() for kl in _kl(group)]), rel=1e-5)
    assert credit.metrics["score"] == 3


def test_token_returns_are_the_shaped_reward_still_to_come(make_group: MakeGroup) -> None:
    group = make_group("g", [1.0, 3.0])
    credit = return_credit([group], baseline="group_mean", kl_coef=0.1, token_returns=True, gamma=0.9)
    for rollout, kl, centred in zip(group.rollouts, _kl(group), [-1.0, 1.0], strict=True):
        rewards = -0.1 * kl
        rewards[-1] += centred
        expected = [sum(0.9 ** (u - t) * rewards[u] for u in range(t, len(rewards))) for t in range(len(rewards))]
        assert _by_rollout(credit)[rollout.id] == pytest.approx(expected, rel=1e-5)


def test_greedy_rollout_is_the_baseline_and_not_trained_on(make_group: MakeGroup) -> None:
    group = _with_greedy(make_group("g", [1.0, 5.0, 2.0], with_reference=False), 2)
    credit = return_credit([group], baseline="greedy")
    assert _first(credit) == {"g/0": -1.0, "g/1": 3.0}
    assert credit.left_out == {"sample:greedy_baseline": 1}
    assert credit.metrics["score"] == 3  # of the samples alone
    other = return_credit([group], baseline="leave_one_out")
    assert _first(other) == {"g/0": -4.0, "g/1": 4.0}  # a greedy completion is no sample of the policy


@pytest.mark.parametrize("absent", [True, False])
def test_no_greedy_score_leaves_the_group_out(make_group: MakeGroup, absent: bool) -> None:
    group = make_group("g", [1.0, 5.0, None if absent else 0.0], with_reference=False)
    group = _with_greedy(group, 2) if absent else group
    credit = return_credit([group, _with_greedy(make_group("h", [1.0, 4.0], with_reference=False), 1)], baseline="greedy")
    assert _first(credit) == {"h/0": -3.0}
    assert credit.left_out["group:no_greedy_baseline"] == 1
    assert credit.ledger_rows()["g/0"] == {
        "credit": None,
        "credit_kind": "mean_advantage",
        "pairs": 0,
        "left_out": "no_greedy_baseline",
    }


def test_greedy_rollouts_do_not_train_the_critic_either(make_group: MakeGroup) -> None:
    group = _with_greedy(make_group("g", [1.0, 5.0], lengths=[1, 1]), 0)
    credit = token_credit([group], torch.tensor([7.0, 3.0]), kl_coef=0.0, whiten_advantages=False)
    assert _first(credit) == {"g/1": 2.0}
    assert credit.old_values is not None
    assert credit.old_values.tolist() == [3.0]


REWARDS = st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rewards=REWARDS,
    gone=st.integers(0, 5),
    baseline=st.sampled_from(["none", "leave_one_out", "group_mean", "group_standard"]),
    token_returns=st.booleans(),
)
def test_an_absence_equals_never_having_sampled_it(
    make_group: MakeGroup, rewards: list[float], gone: int, baseline: str, token_returns: bool
) -> None:
    gone = gone % len(rewards)
    whole = make_group("g", rewards)
    holed = replace(whole, scores=tuple(Scores(None, "DEADLINE") if k == gone else s for k, s in enumerate(whole.scores)))
    never = whole.take([k for k in range(len(rewards)) if k != gone])
    options = {"baseline": baseline, "kl_coef": 0.1, "token_returns": token_returns}
    left, right = return_credit([holed], **options), return_credit([never], **options)  # type: ignore[arg-type]
    assert torch.equal(left.advantages, right.advantages)
    assert torch.equal(left.weight, right.weight)
    assert left.normaliser == right.normaliser
    assert left.left_out == {"sample:absent:DEADLINE": 1}


def test_absences_leave_the_batch_whitening_alone(make_group: MakeGroup) -> None:
    groups = [make_group("g", [1.0, None, 4.0]), make_group("h", [None, 2.0])]
    credit = return_credit(groups, baseline="none", kl_coef=0.01, token_returns=True, whitening="tokens")
    assert credit.advantages.double().mean().item() == pytest.approx(0, abs=1e-6)
    assert credit.advantages.double().std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert len(credit.rollouts) == 3


def test_whitening_says_over_what(make_group: MakeGroup) -> None:
    groups = [make_group("g", [0.0, 1.0], lengths=[1, 9], with_reference=False)]
    tokens = _first(return_credit(groups, baseline="none", whitening="tokens"))
    assert tokens["g/0"] == pytest.approx(-3.0, rel=1e-5)  # mean .9, standard deviation .3 over tokens
    sequences = _first(return_credit(groups, baseline="none", whitening="sequences"))
    assert list(sequences.values()) == pytest.approx([-1.0, 1.0], rel=1e-5)
    with pytest.raises(ValueError, match="whitening of sequences"):
        return_credit(groups, baseline="none", whitening="sequences", token_returns=True)


def test_a_group_of_one_has_no_group_baseline(make_group: MakeGroup) -> None:
    groups = [make_group("g", [1.0, None]), make_group("h", [2.0, 1.0])]
    credit = return_credit(groups, baseline="leave_one_out")
    assert {rollout.id for rollout in credit.rollouts} == {"h/0", "h/1"}
    assert credit.left_out == {"sample:absent:INFRASTRUCTURE": 1, "group:fewer_than_two_rollouts": 1, "sample:no_partner": 1}
    assert len(return_credit(groups, baseline="none").rollouts) == 3


def test_groups_without_variance_are_dropped_and_counted_by_their_raw_scores(make_group: MakeGroup) -> None:
    flat = make_group("g", [1.0, 1.0], lengths=[2, 9], with_reference=False)
    credit = return_credit(
        [flat, make_group("h", [0.0, 1.0], with_reference=False)],
        baseline="group_standard",
        drop_zero_variance=True,
        rule=ScoreRule(max_tokens=10, overlong_buffer=5),  # makes the returns of g differ
    )
    assert {rollout.group_id for rollout in credit.rollouts} == {"h"}
    assert credit.left_out == {"group:zero_variance": 1, "sample:zero_variance": 2}
    assert credit.metrics["rollouts"] == 4
    assert credit.metrics["trained_rollouts"] == 2


def test_truncated_completions_can_be_masked_but_stay_in_the_baseline(make_group: MakeGroup) -> None:
    group = make_group("g", [3.0, 1.0, 2.0], finish_reasons=["stop", "length", "stop"], with_reference=False)
    credit = return_credit([group], baseline="group_mean", mask_truncated=True)
    assert _first(credit) == {"g/0": 1.0, "g/2": 0.0}
    assert credit.left_out == {"sample:truncated": 1}
    assert credit.normaliser == sum(rollout.length for rollout in credit.rollouts)


def test_soft_overlong_penalty_rises_over_the_buffer(make_rollout: MakeRollout) -> None:
    rule = ScoreRule(max_tokens=10, overlong_buffer=4, overlong_penalty=2.0)
    penalties = [rule.penalty(make_rollout("a", "g", [-1.0] * length)) for length in (1, 6, 7, 8, 10, 12)]
    assert penalties == [0, 0, 0.5, 1.0, 2.0, 2.0]


def test_penalties_come_after_the_clip(make_rollout: MakeRollout) -> None:
    rule = ScoreRule(clip=1.0, missing_eos_penalty=5.0)
    rollouts = [make_rollout("a", "g", [-1.0], finish_reason="length"), make_rollout("b", "g", [-1.0])]
    assert rule(np.array([9.0, -9.0]), rollouts).tolist() == [-4.0, -1.0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.floats(-100, 100), max_size=8), max_size=5))
def test_running_statistics_are_those_of_all_scores(batches: list[list[float]]) -> None:
    statistics = RunningStatistics()
    for batch in batches:
        statistics = statistics.with_scores(np.array(batch, dtype=np.float64))
    everything = np.concatenate([np.zeros(0), *map(np.array, batches)])
    assert statistics.count == everything.size
    if everything.size:
        assert statistics.mean == pytest.approx(everything.mean(), abs=1e-9)
        assert statistics.std == pytest.approx(everything.std(), abs=1e-7)
    assert RunningStatistics.of_state(statistics.state()) == statistics


def test_normalised_scores_use_the_batch_and_the_past(make_group: MakeGroup) -> None:
    past = RunningStatistics().with_scores(np.array([0.0, 2.0]))
    credit = return_credit([make_group("g", [4.0, 6.0], with_reference=False)], baseline="none", rule=ScoreRule(statistics=past, clip=1.0))
    everything = np.array([0.0, 2.0, 4.0, 6.0])
    expected = ((np.array([4.0, 6.0]) - everything.mean()) / everything.std()).clip(-1, 1)
    assert list(_first(credit).values()) == pytest.approx(expected.tolist(), rel=1e-6)


def test_win_probabilities_of_the_judge_are_the_advantage(make_group: MakeGroup) -> None:
    nan = float("nan")
    preferences = np.array([[nan, 0.9, nan, nan], [0.1, nan, 0.2, nan], [nan, 0.8, nan, nan], [nan] * 4])
    group = make_group("g", [0.0, 0.0, 0.0, 9.0], preferences=preferences, with_reference=False)
    credit = return_credit([group], baseline="win_probability", win_matrix=_matrix)
    assert _first(credit) == pytest.approx({"g/0": 0.4, "g/1": -0.35, "g/2": 0.3}, abs=1e-6)
    assert credit.left_out == {"sample:no_preference": 1}
    with pytest.raises(ValueError, match="win_matrix"):
        return_credit([group], baseline="win_probability")


def _matrix(group: Group, kept: Sequence[int]) -> Floats:
    assert group.preferences is not None
    return np.asarray(group.preferences, dtype=np.float64)[np.ix_(kept, kept)]


def _versioned(group: Group, versions: list[str | None], signal: str = "rm") -> Group:
    def scored(score: Scores, version: str | None) -> Scores:
        added = {} if version is None else {signal: {"model": "m", "version": version, "fingerprint": f"f{version}"}}
        return replace(score, provenance={**score.provenance, **added})

    return replace(group, scores=tuple(scored(s, v) for s, v in zip(group.scores, versions, strict=True)))


def test_scores_of_two_versions_are_never_compared(make_group: MakeGroup) -> None:
    group = _versioned(make_group("g", [1.0, 2.0, 100.0, 3.0]), ["1", "1", "2", "1"])
    credit = return_credit([group], baseline="group_mean")
    assert _first(credit) == {"g/0": -1.0, "g/1": 0.0, "g/3": 1.0}
    assert credit.left_out == {"sample:other_version": 1}


def test_the_majority_is_of_those_that_have_a_score_and_a_tie_goes_to_the_later_name(make_group: MakeGroup) -> None:
    absent = _versioned(make_group("g", [None, None, 1.0, 2.0, 3.0]), ["1", "1", "1", "2", "2"])
    assert set(_first(return_credit([absent], baseline="none"))) == {"g/3", "g/4"}
    tied = _versioned(make_group("g", [1.0, 2.0, 3.0, 4.0]), ["2", "1", "1", "2"])
    assert set(_first(return_credit([tied], baseline="none"))) == {"g/0", "g/3"}


def test_versions_are_pinned_per_signal_and_a_branch_not_taken_is_no_conflict(make_group: MakeGroup) -> None:
    group = _versioned(make_group("g", [1.0, 2.0, 3.0, 4.0]), ["1", "1", None, "2"])
    group = _versioned(group, ["a", "b", "b", "b"], signal="judge")
    # judge: b, b, b stay; of those rm: "1", nothing, "2": the tie goes to "2"
    assert set(_first(return_credit([group], baseline="none"))) == {"g/2", "g/3"}


def test_replicas_and_caches_of_one_version_are_the_same(make_group: MakeGroup) -> None:
    group = make_group("g", [1.0, 2.0])
    sources = [{"rm": {"model": "m", "version": "1", "fingerprint": "f", "replica": str(k), "cached": bool(k)}} for k in range(2)]
    group = replace(group, scores=tuple(replace(s, provenance=p) for s, p in zip(group.scores, sources, strict=True)))
    assert len(return_credit([group], baseline="none").rollouts) == 2


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token", lambda x: x.mean()),
        ("sequence", lambda x: np.mean([x[:2].mean(), x[2:3].mean(), x[3:7].mean()])),
        ("constant", lambda x: x.sum() / (3 * 50)),
        ("group", lambda x: np.mean([x[:3].mean(), x[3:7].mean()])),
    ],
)
def test_aggregation_is_what_it_says(make_rollout: MakeRollout, aggregation: str, expected: Callable[[Floats], float]) -> None:
    rollouts = [make_rollout("a", "g", [-1.0] * 2), make_rollout("b", "g", [-1.0]), make_rollout("c", "h", [-1.0] * 4)]
    losses = np.random.default_rng(0).normal(size=7)
    weight, mass = aggregation_weights(rollouts, aggregation, 50)  # type: ignore[arg-type]
    assert float(weight.numpy() @ losses / mass.sum()) == pytest.approx(expected(losses), rel=1e-12)


def test_importance_weights() -> None:
    layout = TokenLayout((2, 1))
    sampling = torch.zeros(3)
    old = torch.log(torch.tensor([4.0, 0.25, 0.5])).double()

    def weigh(level: ImportanceLevel, bound: ImportanceBound, low: float, high: float) -> list[float]:
        weights: list[float] = importance_weights(old, sampling, layout, ImportanceCorrection(level, bound, low, high)).tolist()
        return weights

    assert weigh("token", "truncate", 0.0, 2.0) == pytest.approx([2.0, 0.25, 0.5])
    assert weigh("token", "mask", 0.4, 5.0) == pytest.approx([4.0, 0.0, 0.5])
    assert weigh("sequence", "truncate", 0.0, 3.0) == pytest.approx([1.0, 1.0, 0.5])
    assert weigh("sequence", "mask", 0.6, 3.0) == pytest.approx([1.0, 1.0, 0.0])


def test_a_correction_waits_for_the_trainers_own_log_probs(make_group: MakeGroup) -> None:
    correction = ImportanceCorrection("token", "truncate", 0.0, 2.0)
    credit = return_credit([make_group("g", [0.0, 1.0])], baseline="group_mean", correction=correction)
    assert credit.needs_old_log_probs
    own = credit.old_log_probs + 1.0
    corrected = credit.with_old_log_probs(own)
    assert not corrected.needs_old_log_probs
    assert torch.equal(corrected.old_log_probs, own)
    assert corrected.importance is not None
    assert corrected.importance.tolist() == pytest.approx([2.0] * credit.layout.tokens)
    assert corrected.metrics["importance_ess"] == pytest.approx(1)
    assert corrected.normaliser == credit.normaliser  # a mean over tokens, not over weights
    assert corrected.select([1]).importance is not None
    with pytest.raises(TypeError, match="no old log-probs"):
        corrected.with_old_log_probs(own)
    with pytest.raises(ValueError, match="log_probs has shape"):
        credit.with_old_log_probs(own[1:])


def test_macro_actions_end_by_length_token_and_completion(make_rollout: MakeRollout) -> None:
    rollouts = [make_rollout("a", "g", [-1.0] * 7), make_rollout("b", "g", [-1.0] * 2)]  # token ids 0, 1, 2, ...
    assert macro_starts(rollouts, 3).long().tolist() == [1, 0, 0, 1, 0, 0, 1, 1, 0]
    assert macro_starts(rollouts, 3, [1]).long().tolist() == [1, 0, 1, 0, 0, 1, 0, 1, 0]
    assert macro_starts(rollouts, 1).all()
    assert macro_starts([], 3).numel() == 0


def test_macro_credit_is_gae_over_macro_actions(make_group: MakeGroup) -> None:
    group = make_group("g", [2.0], lengths=[5])
    values = torch.arange(5.0)
    credit = token_credit([group], values, kl_coef=0.1, lam=0.9, whiten_advantages=False, macro_tokens=2)
    kl = _kl(group)[0]
    rewards = [-0.1 * kl[:2].sum(), -0.1 * kl[2:4].sum(), 2 - 0.1 * kl[4]]
    state = [0.0, 2.0, 4.0]
    delta = [rewards[0] + state[1] - state[0], rewards[1] + state[2] - state[1], rewards[2] - state[2]]
    a3, a2 = delta[2], delta[1] + 0.9 * delta[2]
    a1 = delta[0] + 0.9 * a2
    np.testing.assert_allclose(credit.advantages.numpy(), [a1, a1, a2, a2, a3], rtol=1e-5)
    assert credit.returns is not None
    np.testing.assert_allclose(credit.returns.numpy(), [a1, a1, a2 + 2, a2 + 2, a3 + 4], rtol=1e-5, atol=1e-6)
    assert credit.weight.tolist() == [1, 0, 1, 0, 1]
    assert credit.normaliser == 3


def test_macro_actions_of_one_token_are_tokens(make_group: MakeGroup) -> None:
    groups = [make_group("g", [2.0, 1.0]), make_group("h", [0.0])]
    values = torch.linspace(-1, 1, sum(r.length for r in all_rollouts(groups)))
    plain = token_credit(groups, values, kl_coef=0.1)
    macro = token_credit(groups, values, kl_coef=0.1, macro_tokens=99, macro_end_ids=range(99))  # every token ends one
    torch.testing.assert_close(macro.advantages, plain.advantages)
    assert torch.equal(macro.weight, plain.weight)


def test_dense_token_rewards_join_the_others(make_group: MakeGroup) -> None:
    group = make_group("g", [2.0, 1.0], lengths=[3, 1], with_reference=False)
    dense = {"g/0": np.array([1.0, -1.0, 0.5], dtype=np.float32)}
    credit = token_credit([group], torch.zeros(4), kl_coef=0.0, lam=1.0, whiten_advantages=False, token_rewards=dense)
    assert _by_rollout(credit) == {"g/0": [2.5, 1.5, 2.5], "g/1": [1.0]}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(-100, 100))
def test_group_baselines_do_not_see_a_shift(rewards: list[float], shift: float) -> None:
    returns = torch.tensor(rewards, dtype=torch.float64)
    for baseline in (leave_one_out, group_standard):
        assert float(baseline(returns).sum()) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(leave_one_out(returns + shift), leave_one_out(returns), rtol=1e-9, atol=1e-9)
