"""What every policy-gradient algorithm must do alike: cut into parts, resume, refuse wrong options, ignore order."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from rewardmesh.trainer.algorithms import Algorithm, load_algorithm
from rewardmesh.trainer.credit import TokenCredit, micro_batches
from rewardmesh.trainer.credit.base import Credit
from rewardmesh.trainer.losses import clipped_policy_loss
from rewardmesh.trainer.samples import Group, all_rollouts

MakeGroup = Callable[..., Group]

FAMILY: list[tuple[str, dict[str, object]]] = [
    ("ppo", {}),
    ("ppo", {"importance": "token_mask", "importance_low": 0.5, "importance_high": 1.5}),
    ("ppo_max", {"critic_warmup_steps": 0}),
    ("ma_ppo", {"macro_tokens": 2}),
    ("apa", {}),
    ("rloo", {}),
    ("reinforce_plus_plus", {}),
    ("reinforce_plus_plus_baseline", {}),
    ("remax", {}),
    ("grpo", {}),
    ("grpo", {"aggregation": "token"}),
    ("grpo", {"aggregation": "constant", "constant_length": 7}),
    ("grpo", {"aggregation": "group"}),
    ("grpo", {"kl_level": "sequence", "kl_estimator": "k2"}),
    ("grpo", {"importance": "sequence_truncate", "importance_high": 1.5}),
    ("dr_grpo", {}),
    ("dapo", {"max_tokens": 4, "overlong_buffer": 3, "mask_truncated": True}),
    ("gspo", {}),
    ("cispo", {"cap": 1.1}),
    ("p3o", {}),
    ("p3o", {"clipping": "separate"}),
    ("pairwise_policy_gradient", {}),
]
IDS = [name + "".join(f"-{value}" for value in options.values()) for name, options in FAMILY]


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _batch(make_group: MakeGroup, *, greedy: bool) -> list[Group]:
    groups = []
    for k in range(8):
        rewards = [float(k % 3), 1.0, None if k % 4 == 0 else 0.3, 2.0, 0.5]
        group = make_group(
            f"g{k}",
            rewards,
            lengths=[2 + (k + i) % 4 for i in range(5)],
            finish_reasons=["stop", "length" if k % 2 else "stop", "stop", "stop", "stop"],
            preferences=np.random.default_rng(k).uniform(size=(5, 5)),
        )
        if greedy:
            group = replace(group, rollouts=(*group.rollouts[:4], replace(group.rollouts[4], source="greedy")))
        groups.append(group)
    return groups


def _credit(algorithm: Algorithm, groups: list[Group]) -> TokenCredit:
    """With the old log-probs a correction asks for, which follow a rollout through any order."""
    values = torch.cat([torch.full((r.length,), float(len(r.id) + r.length)) / 10 for r in all_rollouts(groups)])
    credit = algorithm.credit(groups, _rng(), values)
    assert isinstance(credit, TokenCredit)
    if credit.needs_old_log_probs:
        with pytest.raises(ValueError, match="with_old_log_probs"):
            algorithm.loss(credit, torch.zeros(credit.layout.tokens), torch.zeros(credit.layout.tokens))
        credit = credit.with_old_log_probs(credit.old_log_probs + 0.3 * torch.sin(credit.old_log_probs * 9))
    return credit


def _at(credit: Credit, by_id: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([by_id[rollout.id] for rollout in credit.rollouts])


def _leaves(groups: list[Group]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    rng = np.random.default_rng(5)
    log_probs = {
        r.id: torch.tensor(r.sampling_log_probs.astype(np.float64) + rng.normal(scale=0.3, size=r.length), requires_grad=True)
        for r in all_rollouts(groups)
    }
    return log_probs, {r.id: torch.tensor(rng.normal(size=r.length), requires_grad=True) for r in all_rollouts(groups)}


@pytest.mark.parametrize(("name", "options"), FAMILY, ids=IDS)
def test_eight_parts_of_one_equal_one_of_eight(make_group: MakeGroup, name: str, options: dict[str, object]) -> None:
    algorithm = load_algorithm(name, options)
    groups = _batch(make_group, greedy=name == "remax")
    log_probs, values = _leaves(groups)
    credit = _credit(algorithm, groups)
    leaves = [*log_probs.values(), *values.values()]

    def run(max_tokens: int) -> tuple[int, dict[str, float], list[torch.Tensor]]:
        parts = list(micro_batches(credit, max_tokens))
        metrics: dict[str, float] = {}
        for leaf in leaves:
            leaf.grad = None
        for part in parts:
            output = algorithm.loss(part, _at(part, log_probs), _at(part, values))
            output.loss.backward()  # type: ignore[no-untyped-call]
            for metric, share in output.metrics.items():
                metrics[metric] = metrics.get(metric, 0.0) + share
        return len(parts), metrics, [leaf.grad.clone() for leaf in leaves if leaf.grad is not None]

    one, whole, whole_gradient = run(10_000)
    many, pieces, piece_gradient = run(1)
    assert one == 1
    assert many >= 4 if name == "dapo" else many >= 8
    assert whole["loss"] != 0
    assert pieces == pytest.approx(whole, rel=1e-9, abs=1e-12)
    assert len(whole_gradient) == len(piece_gradient) > 0
    for left, right in zip(whole_gradient, piece_gradient, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), [case for case in FAMILY if case[0] not in ("cispo", "p3o")])
def test_the_loss_has_the_gradient_of_finite_differences(make_group: MakeGroup, name: str, options: dict[str, object]) -> None:
    """Of the whole loss, aggregation and KL included; CISPO and P3O hold an importance weight constant, see test_policy_losses."""
    algorithm = load_algorithm(name, options)
    groups = _batch(make_group, greedy=name == "remax")[:3]
    log_probs, values = _leaves(groups)
    credit = _credit(algorithm, groups)
    at = _at(credit, log_probs).detach().requires_grad_()
    critic = _at(credit, values).detach().requires_grad_()
    loss = lambda x, v: algorithm.loss(credit, x, v if algorithm.needs_critic else None).loss  # noqa: E731
    inputs = (at, critic if algorithm.needs_critic else critic.detach())
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "options"), FAMILY, ids=IDS)
def test_the_order_of_rollouts_and_groups_is_nothing(make_group: MakeGroup, name: str, options: dict[str, object]) -> None:
    algorithm = load_algorithm(name, options)
    groups = _batch(make_group, greedy=name == "remax")
    log_probs, values = _leaves(groups)
    shuffled = [group.take([3, 1, 4, 0, 2]) for group in reversed(groups)]
    losses = []
    for batch in (groups, shuffled):
        credit = _credit(algorithm, batch)
        losses.append(float(algorithm.loss(credit, _at(credit, log_probs), _at(credit, values)).loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(("name", "options"), FAMILY, ids=IDS)
def test_a_run_resumed_after_every_step_walks_the_same_path(make_group: MakeGroup, name: str, options: dict[str, object]) -> None:
    adapting = {**options, "normalise_rewards": True}
    if load_algorithm(name, options).needs_reference and name != "apa":
        adapting["target_kl"] = 0.01
    straight, resumed = load_algorithm(name, adapting), load_algorithm(name, adapting)
    for step in range(3):
        groups = [make_group(f"s{step}", [float(step), 1.0, 5.0, 2.0], preferences=np.full((4, 4), 0.3), seed=step)]
        groups = [replace(groups[0], rollouts=(*groups[0].rollouts[:3], replace(groups[0].rollouts[3], source="greedy")))]
        credits = [_credit(algorithm, groups) for algorithm in (straight, resumed)]
        assert torch.equal(credits[0].advantages, credits[1].advantages)
        assert [algorithm.finish_step(credit) for algorithm, credit in zip((straight, resumed), credits, strict=True)]
        state = resumed.state()
        assert all(isinstance(value, float) for value in state.values())
        resumed = load_algorithm(name, adapting)
        resumed.load_state(state)
        assert resumed.state() == straight.state()
    assert straight.state() != load_algorithm(name, adapting).state()
    assert straight.state()["reward_count"] == 9
    with pytest.raises(ValueError, match="state has"):
        resumed.load_state({"x": 1.0})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("grpo", {"kl_in": "none"}, "kl_in"),
        ("grpo", {"clip": 0}, "clip"),
        ("grpo", {"cliip": 0.2}, "cliip"),
        ("grpo", {"dual_clip": 0.9}, "dual_clip"),
        ("grpo", {"importance": "tis"}, "importance"),
        ("grpo", {"importance_low": 3.0}, "importance_low must be below"),
        ("rloo", {"token_returns": True}, "token_returns"),
        ("rloo", {"target_kl": 1.0, "kl_coef": 0}, "target_kl needs kl_coef"),
        ("rloo", {"kl_level": "sequence"}, "kl_level: sequence is for kl_in: loss"),
        ("reinforce_plus_plus", {"whitening": "sequences"}, "token_returns: false"),
        ("remax", {"epochs": 2}, "epochs and minibatches must be 1"),
        ("dr_grpo", {"constant_length": 0}, "constant_length"),
        ("dapo", {"overlong_buffer": 257}, "overlong_buffer must not be longer"),
        ("gspo", {"token_returns": True}, "token_returns"),
        ("cispo", {"cap": 0}, "cap"),
        ("p3o", {"baseline": "none"}, "baseline"),
        ("p3o", {"clipping": "none"}, "clipping"),
        ("pairwise_policy_gradient", {"baseline": "group_mean"}, "baseline"),
        ("ppo_max", {"critic_warmup_steps": -1}, "critic_warmup_steps"),
        ("ma_ppo", {"macro_tokens": 1}, "macro_tokens"),
        ("apa", {"advantage_temperature": 0}, "advantage_temperature"),
    ],
)
def test_wrong_options_are_refused_by_name(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        load_algorithm(name, options)


@pytest.mark.parametrize("name", sorted({name for name, _ in FAMILY}))
def test_every_option_is_described(name: str) -> None:
    fields = type(load_algorithm(name).config).model_fields
    assert [field for field, info in fields.items() if not info.description] == []


def test_references_are_asked_for_only_where_they_are_used(make_group: MakeGroup) -> None:
    wants = {name: load_algorithm(name).needs_reference for name in ("rloo", "grpo", "apa", "ppo", "dr_grpo", "dapo", "gspo", "cispo")}
    assert wants == {"rloo": True, "grpo": True, "apa": True, "ppo": True, "dr_grpo": False, "dapo": False, "gspo": False, "cispo": False}
    group = make_group("g", [0.0, 1.0, 2.0])
    group = replace(group, reference_log_probs=(None, *group.reference_log_probs[1:]))
    assert load_algorithm("apa").credit([group], _rng(), torch.zeros(9)).left_out == {"sample:no_reference_log_probs": 1}
    assert load_algorithm("dr_grpo").credit([group], _rng()).left_out == {}


def test_p3o_never_cuts_a_group(make_group: MakeGroup) -> None:
    credit = load_algorithm("p3o").credit([make_group("g", [0.0, 1.0, 2.0])], _rng())
    assert len(list(micro_batches(credit, 1))) == 1
    with pytest.raises(ValueError, match="cut a group in two"):
        credit.select([0, 1])


def test_the_critic_of_ppo_max_learns_alone_at_first(make_group: MakeGroup) -> None:
    algorithm = load_algorithm("ppo_max", {"critic_warmup_steps": 1})
    groups = [make_group("g", [0.0, 1.0], lengths=[2, 2])]
    for policy_learns in (False, True):
        credit = algorithm.credit(groups, _rng(), torch.zeros(4))
        assert isinstance(credit, TokenCredit)
        log_probs, values = credit.old_log_probs.clone().requires_grad_(), torch.zeros(4, requires_grad=True)
        gradient = torch.autograd.grad(algorithm.loss(credit, log_probs, values).loss, (log_probs, values))
        assert bool(gradient[0].any()) is policy_learns
        assert gradient[1].any()
        algorithm.finish_step(credit)


def test_macro_ratio_is_the_product_over_its_tokens(make_group: MakeGroup) -> None:
    algorithm = load_algorithm("ma_ppo", {"macro_tokens": 2, "vf_coef": 0.0, "kl_coef": 0.0})
    credit = algorithm.credit([make_group("g", [1.0, -1.0], lengths=[3, 2])], _rng(), torch.zeros(5))
    assert isinstance(credit, TokenCredit)
    shift = torch.tensor([0.05, 0.1, -0.3, 0.2, -0.1], dtype=torch.float64)
    new = credit.old_log_probs.double() + shift
    ratio = torch.stack([shift[0] + shift[1], shift[2], shift[3] + shift[4]])
    advantages = credit.advantages.double()[[0, 2, 3]]
    expected = clipped_policy_loss(ratio, torch.zeros(3, dtype=torch.float64), advantages, 0.2).mean()
    torch.testing.assert_close(algorithm.loss(credit, new, torch.zeros(5)).loss, expected)


def test_importance_weighs_the_policy_loss_alone(make_group: MakeGroup) -> None:
    options = {"importance": "token_truncate", "importance_high": 2.0, "kl_coef": 0.5}
    algorithm, plain = load_algorithm("grpo", options), load_algorithm("grpo", {"kl_coef": 0.5})
    groups = [make_group("g", [1.0, 0.0])]
    credit = algorithm.credit(groups, _rng())
    assert isinstance(credit, TokenCredit)
    old = credit.old_log_probs + 5  # every weight is at its cap
    corrected = algorithm.loss(credit.with_old_log_probs(old), old + 0.01).metrics
    uncorrected = plain.loss(replace(plain.credit(groups, _rng()), old_log_probs=old), old + 0.01).metrics  # type: ignore[call-arg]
    assert corrected["policy_loss"] == pytest.approx(2 * uncorrected["policy_loss"], rel=1e-6)
    assert corrected["kl_loss"] == pytest.approx(uncorrected["kl_loss"], rel=1e-9)
