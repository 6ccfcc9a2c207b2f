"""Pairs across sources, labels from win rates, and the credit of completions one by one or in lists."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from rewardmesh.trainer.credit import PairCredit, SequenceCredit, minibatches, pair_credit, sequence_credit
from rewardmesh.trainer.credit.preferences import win_probabilities, win_rates
from rewardmesh.trainer.samples import Group, Scores, Source

MakeGroup = Callable[..., Group]
NAN = float("nan")


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _sourced(group: Group, *sources: Source) -> Group:
    rollouts = tuple(replace(rollout, source=source) for rollout, source in zip(group.rollouts, sources, strict=True))
    return replace(group, rollouts=rollouts)


def _labelled(credit: PairCredit) -> dict[tuple[str, str], float]:
    ids = [rollout.id for rollout in credit.rollouts]
    pairs = zip(credit.first.tolist(), credit.second.tolist(), credit.p_first.tolist(), strict=True)
    return {(ids[i], ids[j]): p for i, j, p in pairs}


def test_win_rates_are_means_over_who_was_compared() -> None:
    probability = np.array([[NAN, 0.8, NAN], [0.2, NAN, 0.6], [NAN, 0.4, NAN]])
    rates = win_rates(probability, ~np.eye(3, dtype=bool))
    assert rates.tolist() == pytest.approx([0.8, 0.4, 0.4])
    only_third = np.zeros((3, 3), dtype=bool)
    only_third[:, 2] = True
    assert np.isnan(win_rates(probability, only_third)).tolist() == [True, False, True]


def test_labels_from_win_rates(make_group: MakeGroup) -> None:
    """Preferences in a circle with a clear winner of most: the label compares how often each wins, not who beats whom."""
    preferences = np.array([[NAN, 0.9, 0.6], [0.1, NAN, 0.8], [0.4, 0.2, NAN]])
    group = make_group("g", [0.0, 0.0, 0.0], preferences=preferences)
    rates = np.array([0.75, 0.45, 0.3])
    expected = 1 / (1 + np.exp(-(rates[:, None] - rates[None, :])))
    np.testing.assert_allclose(win_probabilities(group, [0, 1, 2], "win_rate", 1.0), expected, rtol=1e-12)
    assert _labelled(pair_credit([group], _rng(), source="win_rate"))["g/0", "g/2"] == pytest.approx(expected[0, 2], abs=1e-6)


def test_smoothing_comes_after_hardening_and_min_margin(make_group: MakeGroup) -> None:
    group = make_group("g", [1.0, 0.9, 1.0])
    credit = pair_credit([group], _rng(), label="hard", label_smoothing=0.1)
    assert _labelled(credit) == pytest.approx({("g/0", "g/1"): 0.9, ("g/0", "g/2"): 0.5, ("g/1", "g/2"): 0.1})
    sure = pair_credit([make_group("g", [4.0, 0.0])], _rng(), label_smoothing=0.4, min_margin=0.9)
    assert sure.pairs == 1


def test_pairs_across_sources_take_exactly_one_of_them(make_group: MakeGroup) -> None:
    group = _sourced(make_group("g", [1.0, 2.0, 0.0, 3.0]), "policy", "reference", "policy", "reference")
    credit = pair_credit([group, make_group("h", [0.0, 1.0])], _rng(), across="reference")
    assert set(_labelled(credit)) == {("g/0", "g/1"), ("g/0", "g/3"), ("g/1", "g/2"), ("g/2", "g/3")}
    assert _labelled(credit)["g/0", "g/1"] == pytest.approx(1 / (1 + np.e))
    assert credit.left_out == {"sample:no_pair": 2}
    widest = pair_credit([group], _rng(), across="reference", selection="max_min")
    assert set(_labelled(widest)) == {("g/2", "g/3")}
    random = pair_credit([group], _rng(), across="reference", selection="random")
    assert random.pairs == 2
    assert len({i for pair in _labelled(random) for i in pair}) == 4


def test_what_a_loss_needs_keeps_the_others_out(make_group: MakeGroup) -> None:
    group = _sourced(make_group("g", [1.0, 0.0, 2.0, None]), "policy", "replay", "policy", "policy")
    own = pair_credit([group], _rng(), own_samples=True)
    assert set(_labelled(own)) == {("g/0", "g/2")}
    assert own.left_out == {"sample:absent:INFRASTRUCTURE": 1, "sample:not_own_sample": 1}
    scored = replace(
        group,
        scores=tuple(
            Scores(s.reward, s.absence, token_rewards=np.arange(r.length, dtype=np.float32) if k != 2 else None)
            for k, (s, r) in enumerate(zip(group.scores, group.rollouts, strict=True))
        ),
    )
    credit = pair_credit([scored], _rng(), needs_token_rewards=True)
    assert set(_labelled(credit)) == {("g/0", "g/1")}
    assert credit.left_out["sample:no_token_rewards"] == 1
    assert credit.token_rewards is not None
    assert credit.token_rewards.tolist() == [0, 1, 0, 1, 2]
    assert credit.rewards.tolist() == [1, 0]


def test_a_reference_that_is_not_needed_is_not_missed(make_group: MakeGroup) -> None:
    group = make_group("g", [1.0, 0.0, 2.0], with_reference=False)
    assert pair_credit([group], _rng()).is_empty
    credit = pair_credit([group], _rng(), needs_reference=False)
    assert credit.pairs == 3
    assert credit.reference_log_probs is None
    assert credit.select([0, 1, 2]).reference_log_probs is None
    assert sequence_credit([group], target="reward", needs_reference=False).kl == 0


def test_sequence_targets(make_group: MakeGroup) -> None:
    group = make_group("g", [1.0, 3.0, None, 1.0])
    rewards = sequence_credit([group], target="reward")
    assert rewards.targets.tolist() == [1, 3, 1]
    assert rewards.left_out == {"sample:absent:INFRASTRUCTURE": 1}
    rates = sequence_credit([group], target="win_rate", reward_temperature=2.0)
    beat = 1 / (1 + np.exp(-1))
    assert rates.targets.tolist() == pytest.approx([(0.5 + 1 - beat) / 2, beat, (0.5 + 1 - beat) / 2], abs=1e-6)
    assert rates.normaliser == 3
    rows = rates.ledger_rows()
    assert rows["g/1"]["credit"] == pytest.approx(beat)
    assert rows["g/1"]["credit_kind"] == "win_rate"
    assert rows["g/2"] == {"credit": None, "credit_kind": "win_rate", "pairs": 0, "left_out": "absent:INFRASTRUCTURE"}


def test_a_rollout_nobody_compared_has_no_win_rate(make_group: MakeGroup) -> None:
    preferences = np.array([[NAN, 0.9, NAN], [0.3, NAN, NAN], [NAN, NAN, NAN]])
    credit = sequence_credit([make_group("g", [0.0, 1.0, 2.0], preferences=preferences)], target="win_rate", source="preferences")
    assert credit.targets.tolist() == pytest.approx([0.8, 0.2])
    assert credit.left_out == {"sample:no_preference": 1}
    alone = sequence_credit([make_group("h", [1.0, None])], target="win_rate")
    assert alone.is_empty
    assert alone.left_out == {"sample:absent:INFRASTRUCTURE": 1, "sample:no_preference": 1}


def test_win_rates_against_an_opponent_who_teaches_nothing(make_group: MakeGroup) -> None:
    group = _sourced(make_group("g", [0.0, 1.0, 0.0, -1.0]), "policy", "policy", "mixture", "mixture")
    credit = sequence_credit([group, make_group("h", [0.0, 0.0])], target="win_rate", opponent="mixture", own_samples=True)
    sigmoid = [1 / (1 + np.exp(-x)) for x in (1.0, 2.0)]
    assert [rollout.id for rollout in credit.rollouts] == ["g/0", "g/1", "h/0", "h/1"]
    assert credit.targets.tolist() == pytest.approx([(0.5 + sigmoid[0]) / 2, (sigmoid[0] + sigmoid[1]) / 2, 0.5, 0.5], abs=1e-6)
    assert credit.left_out == {"sample:opponent": 2}


def test_kl_is_the_mean_log_ratio_of_own_samples(make_group: MakeGroup) -> None:
    group = _sourced(make_group("g", [0.0, 1.0, 2.0]), "policy", "replay", "policy")
    credit = sequence_credit([group], target="reward")
    sums = [
        r.sampling_log_probs.sum() - ref.sum() for r, ref in zip(group.rollouts, group.reference_log_probs, strict=True) if ref is not None
    ]
    assert credit.kl == pytest.approx((sums[0] + sums[2]) / 2, rel=1e-6)
    assert credit.select([1]).kl == credit.kl


def test_lists_weigh_one_and_stay_whole(make_group: MakeGroup) -> None:
    groups = [make_group("g", [0.0, 1.0, None, 2.0]), make_group("h", [0.0, 1.0]), make_group("i", [None, 1.0])]
    credit = sequence_credit(groups, target="reward", listwise=True)
    assert credit.normaliser == pytest.approx(2)
    assert credit.weight.tolist() == pytest.approx([1 / 3] * 3 + [1 / 2] * 2)
    assert credit.left_out == {"sample:absent:INFRASTRUCTURE": 2, "group:fewer_than_two_rollouts": 1, "sample:no_partner": 1}
    assert credit.units(5) == [[0, 1, 2], [3, 4]]
    with pytest.raises(ValueError, match="cut a list"):
        credit.select([0, 1])
    parts = list(minibatches(credit, 2, _rng()))
    assert [part.normaliser for part in parts] == pytest.approx([1, 1])
    loose = sequence_credit(groups, target="reward")
    assert len(loose.units(5)) == 6
    assert loose.select([2, 0]).targets.tolist() == [2, 0]


def test_sequence_credit_checks_itself(make_group: MakeGroup) -> None:
    credit = sequence_credit([make_group("g", [0.0, 1.0])], target="reward")
    assert isinstance(credit, SequenceCredit)
    with pytest.raises(ValueError, match="targets has shape"):
        replace(credit, targets=torch.zeros(3))
    with pytest.raises(ValueError, match="reference_log_probs has shape"):
        replace(credit, reference_log_probs=torch.zeros(3))
