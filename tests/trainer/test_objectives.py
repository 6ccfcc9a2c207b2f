"""Several objectives: separate advantages, multipliers that hold bounds, and directions that a prompt asks for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rewardmesh.trainer.algorithms import load_algorithm
from rewardmesh.trainer.algorithms.lagrangian import Lagrangian, LagrangianConfig
from rewardmesh.trainer.credit import TokenCredit, micro_batches
from rewardmesh.trainer.credit.directions import (
    conditioned_messages,
    direction_of,
    direction_tags,
    directional_rewards,
    sample_direction,
)
from rewardmesh.trainer.credit.objectives import (
    Constraint,
    Multiplier,
    component_values,
    lagrangian_advantages,
    objective_advantages,
)
from rewardmesh.trainer.samples import Group, Rollout, Scores

MakeGroup = Callable[..., Group]
MakeRollout = Callable[..., Rollout]
Floats = npt.NDArray[np.float64]


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _with_components(group: Group, components: Sequence[Mapping[str, float | None]]) -> Group:
    return replace(group, scores=tuple(replace(given, components=parts) for given, parts in zip(group.scores, components, strict=True)))


def _lagrangian(**options: object) -> Lagrangian:
    bounds = [{"component": "safe", "threshold": 0.5}, {"component": "long", "bound": "at_most", "threshold": 2.0}]
    return Lagrangian(LagrangianConfig.model_validate({"constraints": bounds, **options}))


def test_each_component_has_a_mean_and_a_scale_of_its_own() -> None:
    values = np.array([[1.0, 100.0], [3.0, 300.0], [2.0, 500.0]])
    np.testing.assert_allclose(objective_advantages(values, scale=False), values - [2, 300])
    scaled = objective_advantages(values, scale=True)
    np.testing.assert_allclose(scaled[:, 0], [-1 / 1.0001, 1 / 1.0001, 0])
    np.testing.assert_allclose(scaled[:, 1], [-200 / 200.0001, 0, 200 / 200.0001])
    assert not objective_advantages(np.ones((3, 1)), scale=True).any()


def test_the_lagrangian_weighs_by_multiplier_and_side() -> None:
    advantages = lagrangian_advantages(
        np.array([1.0, -1.0]), np.array([[2.0, 4.0], [0.0, 1.0]]), np.array([0.5, 1.5]), np.array([1.0, -1.0])
    )
    np.testing.assert_allclose(advantages, [(1 + 0.5 * 2 - 1.5 * 4) / 3, (-1 - 1.5) / 3])


def test_absent_components_are_nan(make_group: MakeGroup) -> None:
    group = _with_components(make_group("g", [0.0, 1.0]), [{"a": 1.0, "b": None}, {"b": 3.0}])
    np.testing.assert_array_equal(component_values(group, [1, 0], ["a", "b"]), [[np.nan, 3], [1, np.nan]])
    assert component_values(group, [], ["a", "b"]).shape == (0, 2)


def test_multipliers_rise_with_violations_and_stay_between_their_bounds() -> None:
    multiplier = Multiplier(1.0, rate=0.5, least=0.1, most=3.0)
    multiplier.update(1.0)
    assert multiplier.value == pytest.approx(np.exp(0.5))
    multiplier.update(-1.0)
    assert multiplier.value == pytest.approx(1)
    multiplier.update(-100)
    assert multiplier.value == pytest.approx(0.1)
    multiplier.update(100)
    assert multiplier.value == pytest.approx(3)
    assert Constraint(component="a", threshold=2.0).violation(1.5) == 0.5
    assert Constraint(component="a", bound="at_most", threshold=2.0).violation(1.5) == -0.5


def test_lagrangian_credit_against_the_formula(make_group: MakeGroup) -> None:
    parts: list[dict[str, float | None]] = [{"safe": 1.0, "long": 3.0}, {"safe": 0.0, "long": 1.0}, {"safe": None, "long": 9.0}]
    group = _with_components(make_group("g", [2.0, 0.0, 1.0, None], lengths=[2, 1, 1, 1]), [*parts, {}])
    algorithm = _lagrangian(scale=False, kl_coef=0.1, multiplier=0.5)
    credit = algorithm.credit([group], _rng())
    assert [rollout.id for rollout in credit.rollouts] == ["g/0", "g/1"]
    assert credit.left_out == {"sample:absent:INFRASTRUCTURE": 1, "sample:absent_component:safe": 1}
    sums = [
        float((rollout.sampling_log_probs.astype(np.float64) - reference).sum())
        for rollout, reference in zip(group.rollouts, group.reference_log_probs, strict=True)
        if reference is not None
    ]
    objective = np.array([2 - 0.1 * sums[0], 0 - 0.1 * sums[1]])
    total = objective + 0.5 * np.array([1.0, 0.0]) - 0.5 * np.array([3.0, 1.0])
    advantages = (total - total.mean()) / 2
    np.testing.assert_allclose(credit.advantages.numpy(), [advantages[0], advantages[0], advantages[1]], rtol=1e-5)
    assert credit.normaliser == 3
    assert credit.metrics == pytest.approx(
        {"rollouts": 2, "objective": 1.0, "kl": (sums[0] + sums[1]) / 2, "constraint/safe": 0.5, "constraint/long": 2.0}
    )
    assert algorithm.finish_step(credit) == pytest.approx({"multiplier/safe": 0.5, "multiplier/long": 0.5})


def test_the_objective_may_be_a_component(make_group: MakeGroup) -> None:
    group = _with_components(make_group("g", [0.0, 0.0]), [{"helpful": 1.0}, {"helpful": 0.0}])
    credit = Lagrangian(LagrangianConfig(objective="helpful", kl_coef=0)).credit([group], _rng())
    assert credit.advantages[0] > 0 > credit.advantages[-1]
    assert credit.metrics["objective"] == 0.5


def test_a_group_without_company_is_left_out_and_a_batch_of_them_moves_nothing(make_group: MakeGroup) -> None:
    group = _with_components(make_group("g", [0.0, 1.0]), [{"safe": 1.0, "long": 0.0}, {}])
    algorithm = _lagrangian()
    credit = algorithm.credit([group], _rng())
    assert credit.is_empty
    assert credit.left_out == {"sample:absent_component:safe": 1, "group:fewer_than_two_rollouts": 1, "sample:no_baseline": 1}
    assert set(credit.ledger_rows()) == {"g/0", "g/1"}
    before = algorithm.state()
    algorithm.finish_step(credit)
    assert algorithm.state() == before


def test_multipliers_survive_a_resume() -> None:
    algorithm = _lagrangian()
    algorithm.multipliers["safe"].update(0.3)
    resumed = _lagrangian()
    resumed.load_state(algorithm.state())
    assert resumed.state() == algorithm.state()
    with pytest.raises(ValueError, match="this configuration keeps"):
        resumed.load_state({"multiplier/safe": 1.0})


def test_lagrangian_loss_gradient_and_parts(make_group: MakeGroup) -> None:
    rng = np.random.default_rng(3)
    groups = [
        _with_components(
            make_group(name, list(rng.normal(size=3))), [{"safe": float(x), "long": float(y)} for x, y in rng.normal(size=(3, 2))]
        )
        for name in "abcd"
    ]
    algorithm = _lagrangian()
    credit = algorithm.credit(groups, _rng())
    log_probs = (credit.old_log_probs.double() + torch.tensor(rng.normal(scale=0.3, size=credit.layout.tokens))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: algorithm.loss(credit, x).loss, (log_probs,))
    by_id = {r.id: values for r, values in zip(credit.rollouts, torch.split(log_probs.detach(), list(credit.layout.lengths)), strict=True)}
    whole = algorithm.loss(credit, log_probs.detach()).metrics
    parts = [algorithm.loss(part, torch.cat([by_id[r.id] for r in part.rollouts])).metrics for part in micro_batches(credit, 4)]
    assert len(parts) == 12
    for name, value in whole.items():
        assert sum(part[name] for part in parts) == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"constraints": [{"component": "a", "threshold": 0}, {"component": "a", "threshold": 1}]}, "one bound"),
        ({"objective": "a", "constraints": [{"component": "a", "threshold": 0}]}, "a is the objective"),
        ({"constraints": [{"component": "a"}]}, "threshold"),
        ({"constraints": [{"component": "a", "threshold": 0, "bound": "about"}]}, "bound"),
        ({"multiplier": 1000}, "multiplier must lie between"),
    ],
)
def test_bad_constraints_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        load_algorithm("lagrangian", config)


def test_the_lagrangian_finds_the_constrained_optimum(make_rollout: MakeRollout) -> None:
    """Eight actions, exact expectations: max E[r] - beta KL subject to E[c] >= t is pi_ref exp((r + lambda c) / beta) / Z."""
    rng, beta, threshold = np.random.default_rng(7), 0.5, 0.75
    reward = rng.permutation(np.linspace(0.2, 1.4, 8))
    safety = 1 / (1 + np.exp(4 * (reward - reward.mean()) + rng.normal(scale=0.5, size=8)))  # what pays best is least safe
    reference = rng.dirichlet(np.full(8, 10.0))

    def gibbs(multiplier: float) -> Floats:
        weights = reference * np.exp((reward + multiplier * safety) / beta)
        return np.asarray(weights / weights.sum(), dtype=np.float64)

    low, high = 0.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if gibbs(middle) @ safety > threshold else (middle, high)
    assert gibbs(0) @ safety < threshold - 0.2  # the bound binds

    algorithm = Lagrangian(
        LagrangianConfig(
            constraints=(Constraint(component="safe", threshold=threshold),),
            kl_coef=beta,
            scale=False,
            multiplier_rate=0.1,
        )
    )
    logits = torch.tensor(np.log(reference), requires_grad=True)
    policy = reference
    for _ in range(1500):
        rollouts = tuple(make_rollout(str(action), "g", [np.log(policy[action])]) for action in range(8))
        scores = tuple(Scores(float(r), components={"safe": float(c)}) for r, c in zip(reward, safety, strict=True))
        known = tuple(np.log(reference[action : action + 1]).astype(np.float32) for action in range(8))
        credit = algorithm.credit([Group("g", rollouts, scores, reference_log_probs=known)], _rng())
        assert isinstance(credit, TokenCredit)
        # Every action is there once: its probability is its weight, in the loss and in the mean that the multiplier follows.
        exact = replace(credit, weight=torch.tensor(policy).float(), normaliser=1.0, metrics={"constraint/safe": float(policy @ safety)})
        (gradient,) = torch.autograd.grad(algorithm.loss(exact, logits.log_softmax(0)).loss, logits)
        with torch.no_grad():
            logits -= 2 * gradient
        policy = logits.detach().softmax(0).numpy()
        algorithm.finish_step(exact)
    assert float(policy @ safety) == pytest.approx(threshold, abs=2e-3)
    assert algorithm.multipliers["safe"].value == pytest.approx(high, rel=0.02)
    assert float(np.abs(policy - gibbs(high)).sum() / 2) < 2e-3


@given(st.integers(1, 5), st.integers(0, 1000))
def test_directions_are_unit_vectors_and_only_some_may_point_away(count: int, seed: int) -> None:
    names = [f"o{index}" for index in range(count)]
    direction = sample_direction(np.random.default_rng(seed), names, both_signs=names[-1:])
    assert list(direction) == names
    assert np.linalg.norm(list(direction.values())) == pytest.approx(1)
    assert all(weight >= 0 for name, weight in direction.items() if name != names[-1])
    assert direction_of({"topic": "maths", **direction_tags(direction)}) == direction  # to the bit


def test_directions_are_uniform_over_the_quarter_circle() -> None:
    rng = np.random.default_rng(1)
    drawn = [sample_direction(rng, ("a", "b")) for _ in range(4000)]
    angles = np.array([np.arctan2(one["b"], one["a"]) for one in drawn]) / (np.pi / 2)
    assert np.abs(np.sort(angles) - (np.arange(4000) + 0.5) / 4000).max() < 0.03  # Kolmogorov-Smirnov at about .1%


def test_a_prompt_says_its_direction() -> None:
    messages = (("system", "s"), ("user", "first"), ("assistant", "a"), ("user", "2 {direction}?"))
    said = conditioned_messages(messages, {"right": 0.8, "brief": -0.6}, "[{direction}] {prompt}")
    assert said == (*messages[:3], ("user", "[right=0.80, brief=-0.60] 2 {direction}?"))
    with pytest.raises(ValueError, match=r"must hold \{prompt\}"):
        conditioned_messages(messages, {"right": 1.0}, "{direction}")
    with pytest.raises(ValueError, match="user message"):
        conditioned_messages(messages[:1], {"right": 1.0}, "{direction} {prompt}")


def test_reward_along_a_direction_ignores_components_without_weight(make_group: MakeGroup) -> None:
    group = _with_components(make_group("g", [0.0, 0.0]), [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": None}])
    np.testing.assert_allclose(directional_rewards(group, [0, 1], {"a": 1.0, "b": 0.0}), [1, 3])
    np.testing.assert_allclose(directional_rewards(group, [0, 1], {"a": 0.6, "b": 0.8}), [2.2, np.nan])
