"""The weighted likelihood algorithms: who is weighted how, what is left out, and what must never change the loss."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rewardmesh.trainer.algorithms import known_algorithms, load_algorithm
from rewardmesh.trainer.algorithms._likelihood import WeightedLikelihood
from rewardmesh.trainer.algorithms.bond import BOND, BONDConfig
from rewardmesh.trainer.algorithms.dpa import DPA, DPAConfig
from rewardmesh.trainer.algorithms.raft import RAFT, RAFTConfig
from rewardmesh.trainer.algorithms.rest import ReST, ReSTConfig
from rewardmesh.trainer.algorithms.rwr import RewardWeightedRegression, RWRConfig
from rewardmesh.trainer.algorithms.superhf import SuperHF, SuperHFConfig
from rewardmesh.trainer.credit import PairCredit, WeightedCredit, micro_batches, minibatches, pair_credit
from rewardmesh.trainer.credit.directions import direction_tags
from rewardmesh.trainer.losses import k3, weighted_likelihood_loss
from rewardmesh.trainer.samples import Group, Scores, all_rollouts

MakeGroup = Callable[..., Group]
REWARDS = st.lists(st.none() | st.floats(-5, 5, allow_nan=False, width=32), min_size=2, max_size=6)
ALGORITHMS: list[Callable[[], WeightedLikelihood]] = [
    lambda: RAFT(RAFTConfig()),
    lambda: RAFT(RAFTConfig(best_of=2)),
    lambda: RAFT(RAFTConfig(ranking="global")),
    lambda: ReST(ReSTConfig(thresholds=(0.5,))),
    lambda: ReST(ReSTConfig(thresholds=(1.0,), threshold_scale="reward", kl_coef=0.1)),
    lambda: SuperHF(SuperHFConfig()),
    lambda: RewardWeightedRegression(RWRConfig(beta=0.5)),
    lambda: RewardWeightedRegression(RWRConfig(normalise="batch", length_normalised=True)),
    lambda: BOND(BONDConfig()),
    lambda: BOND(BONDConfig(anchor="reference", kl_coef=0.1)),
]


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _weights(credit: WeightedCredit) -> dict[str, float]:
    return {rollout.id: weight for rollout, weight in zip(credit.rollouts, credit.weight.tolist(), strict=True)}


def test_all_of_them_are_found_by_name() -> None:
    for name in ("raft", "rest", "superhf", "rwr", "bond", "dpa"):
        assert name in known_algorithms()
        assert load_algorithm(name).name == name


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("raft", {"best_of": 1}, "best_of"),
        ("rest", {"thresholds": [0.5, 0.2]}, "must ascend"),
        ("rest", {"thresholds": [0.5, 2.0]}, "quantiles"),
        ("rest", {"thresholds": []}, "thresholds"),
        ("superhf", {"kl_coef": 0}, "kl_coef"),
        ("rwr", {"beta": 0}, "beta"),
        ("bond", {"epochs": 2}, "epochs must be 1"),
        ("bond", {"length_normalised": True}, "length_normalised"),
        ("bond", {"n": 1}, "n"),
        ("dpa", {"scales": {"brief": 0}}, "scales"),
    ],
)
def test_bad_configurations_are_refused(name: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        load_algorithm(name, config)


def test_raft_learns_from_the_best_of_each_group_and_counts_the_rest(make_group: MakeGroup) -> None:
    groups = [make_group("g", [1.0, None, 3.0, 3.0]), make_group("h", [None, 1.0]), make_group("i", [0.0, -1.0])]
    credit = RAFT(RAFTConfig()).credit(groups, _rng())
    assert _weights(credit) == {"g/2": 0.5, "g/3": 0.5, "i/0": 1.0}
    assert credit.normaliser == 2
    assert credit.left_out == {
        "sample:absent:INFRASTRUCTURE": 2,
        "sample:not_selected": 2,
        "sample:too_few_scored_rollouts": 1,
        "group:too_few_scored_rollouts": 1,
    }
    rows = credit.ledger_rows()
    assert set(rows) == {rollout.id for rollout in all_rollouts(groups)}
    assert rows["g/2"] == {"credit": 0.5, "credit_kind": "likelihood_weight", "pairs": 0, "left_out": ""}
    assert rows["g/0"]["left_out"] == "not_selected"
    assert credit.metrics["score"] == pytest.approx((1 + 3 + 3 + 0 - 1) / 5)
    assert credit.metrics["selected_score"] == pytest.approx((3 + 0) / 2)
    assert credit.metrics["effective_fraction"] == pytest.approx(2**2 / (5 * 1.5))


def test_raft_of_fewer_than_the_group_averages_over_subsets(make_group: MakeGroup) -> None:
    credit = RAFT(RAFTConfig(best_of=2)).credit([make_group("g", [0.0, 1.0, 2.0])], _rng())
    assert _weights(credit) == pytest.approx({"g/1": 1 / 3, "g/2": 2 / 3})


def test_global_ranking_takes_as_many_from_the_batch(make_group: MakeGroup) -> None:
    groups = [make_group("g", [0.0, 1.0]), make_group("h", [2.0, 3.0])]
    assert _weights(RAFT(RAFTConfig(ranking="global")).credit(groups, _rng())) == {"h/0": 1, "h/1": 1}
    assert _weights(RAFT(RAFTConfig(ranking="global", best_of=4)).credit(groups, _rng())) == {"h/1": 1}


def test_rest_raises_its_threshold_and_a_resumed_run_has_the_same(make_group: MakeGroup) -> None:
    config = ReSTConfig(thresholds=(0.0, 0.5, 0.9), steps_per_threshold=2)
    algorithm, groups = ReST(config), [make_group("g", [0.0, 1.0, 2.0, 3.0])]
    sizes = []
    for _ in range(6):
        credit = algorithm.credit(groups, _rng())
        sizes.append(len(credit.rollouts))
        resumed = ReST(config)
        resumed.load_state(algorithm.state())
        assert resumed.threshold == algorithm.threshold
        assert algorithm.finish_step(credit) == {"threshold": resumed.threshold}
    assert sizes == [4, 4, 3, 3, 2, 2]
    with pytest.raises(ValueError, match="this algorithm keeps"):
        algorithm.load_state({})
    with pytest.raises(ValueError, match="no state"):
        RAFT(RAFTConfig()).load_state({"steps": 1.0})


def test_rest_below_a_threshold_of_the_reward_learns_nothing(make_group: MakeGroup) -> None:
    strict = ReST(ReSTConfig(thresholds=(2.0,), threshold_scale="reward"))
    assert _weights(strict.credit([make_group("g", [2.0, 1.9])], _rng())) == {"g/0": 1}
    assert strict.credit([make_group("g", [1.0, None])], _rng()).is_empty
    assert strict.credit([make_group("g", [None, None])], _rng()).is_empty


def test_rwr_weights_are_normalised_over_group_or_batch(make_group: MakeGroup) -> None:
    groups = [make_group("g", [0.0, np.log(3.0)]), make_group("h", [np.log(4.0), None])]
    grouped = RewardWeightedRegression(RWRConfig()).credit(groups, _rng())
    assert _weights(grouped) == pytest.approx({"g/0": 0.25, "g/1": 0.75})
    batch = RewardWeightedRegression(RWRConfig(normalise="batch")).credit(groups, _rng())
    assert _weights(batch) == pytest.approx({"g/0": 2 / 8, "g/1": 6 / 8, "h/0": 8 / 8})


def test_superhf_anchors_on_every_scored_rollout(make_group: MakeGroup) -> None:
    group = make_group("g", [1.0, 0.0, None], lengths=[2, 1, 2])
    algorithm = SuperHF(SuperHFConfig(kl_coef=0.5))
    assert algorithm.needs_reference
    credit = algorithm.credit([group], _rng())
    assert _weights(credit) == {"g/0": 2.0, "g/1": 0.0}
    assert credit.mass.tolist() == [1, 1]
    new = torch.tensor([-0.2, -0.9, -1.5], dtype=torch.float64)
    reference = np.concatenate([group.reference_log_probs[0], group.reference_log_probs[1]]).astype(np.float64)
    difference = new.numpy() - reference
    output = algorithm.loss(credit, new)
    anchor = (np.exp(-difference) - 1 + difference).sum() / 2
    assert output.metrics["likelihood_loss"] == pytest.approx(1.1)
    assert output.metrics["anchor_loss"] == pytest.approx(anchor)
    assert output.metrics["kl"] == pytest.approx(difference.sum() / 2)
    assert float(output.loss) == pytest.approx(1.1 + 0.5 * anchor)


def test_the_anchors_expected_gradient_is_that_of_the_forward_divergence() -> None:
    """What its docstring claims of k3, on a categorical policy: E_pi[grad k3] = grad KL(reference || pi)."""
    logits = torch.tensor(np.random.default_rng(3).normal(size=5), requires_grad=True)
    reference = torch.tensor(np.random.default_rng(4).dirichlet(np.ones(5)))
    log_pi = logits.log_softmax(0)
    (sampled,) = torch.autograd.grad((log_pi.exp().detach() * k3(log_pi, reference.log())).sum(), logits, retain_graph=True)
    (exact,) = torch.autograd.grad((reference * (reference.log() - log_pi)).sum(), logits)
    torch.testing.assert_close(sampled, exact)


def test_bond_learns_only_from_the_policys_own(make_group: MakeGroup) -> None:
    group = make_group("g", [0.0, 1.0, 2.0])
    mixed = replace(group, rollouts=(*group.rollouts[:2], replace(group.rollouts[2], source="greedy")))
    credit = BOND(BONDConfig()).credit([mixed], _rng())
    assert set(_weights(credit)) == {"g/0", "g/1"}
    assert credit.left_out["sample:source:greedy"] == 1


def test_bond_weights_against_the_formula(make_group: MakeGroup) -> None:
    """n = 2 on two rollouts of the policy: F = 1/2 and 1; p_2 / p = F + F' = 1/2, 3/2."""
    credit = BOND(BONDConfig(n=2, forward_share=0.5)).credit([make_group("g", [0.0, 1.0])], _rng())
    gain = np.log([0.5, 1.5])
    advantage = (gain - gain.mean()) * 2
    np.testing.assert_allclose(credit.weight.numpy(), 0.5 * np.array([0.5, 1.5]) + 0.5 * advantage, rtol=1e-6)
    assert credit.mass.tolist() == [1, 1]


def _directed(group: Group, direction: dict[str, float], components: list[dict[str, float | None]]) -> Group:
    scores = tuple(replace(given, components=parts) for given, parts in zip(group.scores, components, strict=True))
    return replace(group, scores=scores, tags=direction_tags(direction))


def test_dpa_takes_the_best_along_the_groups_direction(make_group: MakeGroup) -> None:
    parts: list[dict[str, float | None]] = [
        {"helpful": 1.0, "brief": 0.0},
        {"helpful": 0.0, "brief": 10.0},
        {"helpful": None, "brief": 99.0},
    ]
    group = make_group("g", [1.0, 1.0, 1.0])
    towards = _directed(group, {"helpful": 0.8, "brief": 0.6}, parts)
    assert _weights(DPA(DPAConfig()).credit([towards], _rng())) == {"g/1": 1}
    credit = DPA(DPAConfig(scales={"brief": 100.0})).credit([towards], _rng())
    assert _weights(credit) == {"g/0": 1}
    assert credit.left_out == {"sample:absent_component": 1, "sample:not_selected": 1}
    away = _directed(group, {"helpful": 0.0, "brief": -1.0}, parts)
    assert _weights(DPA(DPAConfig()).credit([away], _rng())) == {"g/0": 1}
    undirected = DPA(DPAConfig()).credit([group], _rng())
    assert undirected.is_empty
    assert undirected.left_out == {"group:no_direction": 1, "sample:no_direction": 3}


def test_dpa_leaves_out_a_group_in_which_too_few_have_every_component(make_group: MakeGroup) -> None:
    group = _directed(make_group("g", [1.0, 1.0]), {"helpful": 1.0}, [{"helpful": 1.0}, {"helpful": None}])
    credit = DPA(DPAConfig()).credit([group], _rng())
    assert credit.is_empty
    assert credit.ledger_rows()["g/0"]["left_out"] == "too_few_scored_rollouts"
    assert credit.ledger_rows()["g/1"]["left_out"] == "absent_component"


def test_likelihood_loss_value_and_gradient() -> None:
    rng = np.random.default_rng(0)
    log_probs = torch.tensor(rng.normal(size=7), requires_grad=True)
    weights = torch.tensor(rng.normal(size=7))
    expected = [-w * x for w, x in zip(weights.tolist(), log_probs.tolist(), strict=True)]
    np.testing.assert_allclose(weighted_likelihood_loss(log_probs, weights).detach().numpy(), expected)
    assert torch.autograd.gradcheck(lambda x: weighted_likelihood_loss(x, weights), (log_probs,))


@pytest.mark.parametrize("make", ALGORITHMS)
def test_the_whole_loss_passes_a_gradient_check(make_group: MakeGroup, make: Callable[[], WeightedLikelihood]) -> None:
    algorithm = make()
    credit = algorithm.credit([make_group("g", [0.0, 1.0, None, 2.0]), make_group("h", [1.0, 1.0])], _rng())
    log_probs = torch.tensor(-np.random.default_rng(1).exponential(size=credit.layout.tokens), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: algorithm.loss(credit, x).loss, (log_probs,))


@pytest.mark.parametrize("make", ALGORITHMS)
def test_eight_parts_of_one_equal_one_part_of_eight(make_group: MakeGroup, make: Callable[[], WeightedLikelihood]) -> None:
    algorithm = make()
    groups = [make_group(name, list(np.random.default_rng(k).normal(size=4))) for k, name in enumerate("abcdefgh")]
    credit = algorithm.credit(groups, _rng())
    log_probs = {r.id: torch.tensor(-np.random.default_rng(len(r.id) + r.length).exponential(size=r.length)) for r in credit.rollouts}

    def output(part: WeightedCredit) -> tuple[float, dict[str, float]]:
        given = algorithm.loss(part, torch.cat([log_probs[r.id] for r in part.rollouts]))
        return float(given.loss), given.metrics

    parts = list(micro_batches(credit, 4))
    assert len(parts) >= 8
    whole, metrics = output(credit)
    cut = [output(part) for part in parts]
    assert sum(loss for loss, _ in cut) == pytest.approx(whole, rel=1e-12)
    for name, value in metrics.items():
        assert sum(given[name] for _, given in cut) == pytest.approx(value, rel=1e-12)
    halves = list(minibatches(credit, 2, _rng()))
    assert [half.normaliser for half in halves] == pytest.approx([half.total_weight for half in halves])
    assert sum(half.total_weight for half in halves) == pytest.approx(credit.normaliser)


@pytest.mark.parametrize("make", ALGORITHMS)
def test_permuting_rollouts_and_groups_never_changes_the_loss(make_group: MakeGroup, make: Callable[[], WeightedLikelihood]) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(REWARDS, REWARDS, st.randoms(use_true_random=False))
    def check(first: list[float | None], second: list[float | None], random: object) -> None:
        groups = [make_group("g", first), make_group("h", second)]
        log_probs = {r.id: -0.1 - 0.37 * (k % 5) for k, r in enumerate(all_rollouts(groups))}
        shuffled = []
        for group in groups:
            order = list(range(len(group.rollouts)))
            random.shuffle(order)  # type: ignore[attr-defined]
            shuffled.append(group.take(order))
        assert _loss(make(), shuffled[::-1], log_probs) == pytest.approx(_loss(make(), groups, log_probs), rel=1e-6, abs=1e-7)

    check()


@pytest.mark.parametrize("make", ALGORITHMS)
def test_an_absent_rollout_is_as_if_it_had_never_been(make_group: MakeGroup, make: Callable[[], WeightedLikelihood]) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=6), st.data())
    def check(rewards: list[float], data: st.DataObject) -> None:
        whole = make_group("g", rewards)
        gone = data.draw(st.integers(0, len(rewards) - 1))
        holed = replace(whole, scores=tuple(Scores(None, "DEADLINE") if k == gone else s for k, s in enumerate(whole.scores)))
        remaining = whole.take([k for k in range(len(rewards)) if k != gone])
        given, expected = make().credit([holed], _rng()), make().credit([remaining], _rng())
        assert _weights(given) == _weights(expected)
        assert given.normaliser == expected.normaliser
        assert given.ledger_rows()[f"g/{gone}"]["left_out"] == "absent:DEADLINE"

    check()


def _loss(algorithm: WeightedLikelihood, groups: list[Group], log_probs: dict[str, float]) -> float:
    credit = algorithm.credit(groups, _rng())
    if credit.is_empty:
        return 0.0
    return float(algorithm.loss(credit, torch.cat([torch.full((r.length,), log_probs[r.id]) for r in credit.rollouts]).double()).loss)


def test_a_loss_refuses_what_is_not_its_credit(make_group: MakeGroup) -> None:
    groups = [make_group("g", [0.0, 1.0], lengths=[1, 1])]
    pairs = pair_credit(groups, _rng())
    assert isinstance(pairs, PairCredit)
    with pytest.raises(TypeError, match="raft takes WeightedCredit, got PairCredit"):
        RAFT(RAFTConfig()).loss(pairs, torch.zeros(2))
    credit = RAFT(RAFTConfig()).credit(groups, _rng())
    with pytest.raises(ValueError, match="log_probs has shape"):
        RAFT(RAFTConfig()).loss(credit, torch.zeros(3))
    with pytest.raises(ValueError, match="reference_log_probs must be given"):
        SuperHF(SuperHFConfig()).loss(credit, torch.zeros(1))
    with pytest.raises(ValueError, match="weight has shape"):
        replace(credit, weight=torch.zeros(2))
    with pytest.raises(ValueError, match="met twice"):
        RAFT(RAFTConfig()).credit([groups[0], groups[0]], _rng())
