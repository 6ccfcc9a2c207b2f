"""Every preference algorithm as the loop sees it: what must never change its loss, what it takes from its options, where it moves."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from rewardmesh.trainer.algorithms import Algorithm, load_algorithm
from rewardmesh.trainer.credit import Credit, PairCredit, SequenceCredit, micro_batches, pair_credit, sequence_credit, token_credit
from rewardmesh.trainer.samples import Group, Scores, Source, all_rollouts

MakeGroup = Callable[..., Group]

PAIRED: list[tuple[str, dict[str, object]]] = [
    ("online_dpo", {"label_smoothing": 0.1}),
    ("ipo", {}),
    ("ipo", {"length_normalised": True}),
    ("slic", {}),
    ("gpo", {"function": "exponential"}),
    ("simpo", {}),
    ("alpha_po", {}),
    ("f_dpo", {"divergence": "forward_kl"}),
    ("f_dpo", {"divergence": "alpha", "alpha": 0.3}),
    ("rpo", {}),
    ("rpo", {"length_normalised": False}),
    ("wpo", {"beta": 0.1}),
    ("optune", {}),
    ("xpo", {"alpha": 0.1}),
    ("vpo", {"alpha": 0.3}),
    ("vpo", {"alpha": 0.3, "optimistic": False, "calibration": "better"}),
    ("inpo", {"beta": 0.2, "eta": 0.5}),
    ("dno", {}),
    ("dno", {"anchor": "reference", "label_source": "mixed"}),
    ("seppo", {}),
    ("tgdpo", {}),
    ("tgdpo", {"token_source": "mesh"}),
]
UNPAIRED: list[tuple[str, dict[str, object]]] = [
    ("sppo", {"beta": 0.2}),
    ("sppo", {"beta": 0.2, "anchor": "reference", "label_source": "preferences"}),
    ("kto", {}),
    ("kto", {"desirability": "threshold", "threshold": 0.5, "label": "hard", "desirable_weight": 2.0}),
    ("nash_md", {}),
    ("spo", {}),
    ("spo", {"beta": 0.2}),
    ("pro", {}),
    ("pro", {"ranked_by": "win_rate"}),
    ("rrhf", {}),
]
EVERY = PAIRED + UNPAIRED
IDS = [f"{name}-{k}" for k, (name, _) in enumerate(EVERY)]
SECOND_SOURCE: dict[str, Source] = {"xpo": "reference", "seppo": "checkpoint", "nash_md": "mixture"}


def _groups(make_group: MakeGroup, name: str) -> list[Group]:
    """Eight groups of four, some absences, preferences with holes, token rewards, and the other source where one is needed."""
    groups = []
    for k in range(8):
        matrix = np.random.default_rng(k).uniform(size=(4, 4))
        matrix[0, 3] = matrix[3, 0] = np.nan
        group = make_group(f"g{k}", [float(k % 3), 1.0, None if k % 4 == 0 else 0.3, 2.0], preferences=matrix, seed=k)
        rollouts = tuple(
            replace(r, source=SECOND_SOURCE.get(name, "policy")) if place == 3 else r for place, r in enumerate(group.rollouts)
        )
        scores = tuple(
            Scores(s.reward, s.absence, token_rewards=np.random.default_rng([k, place]).normal(size=r.length).astype(np.float32))
            for place, (s, r) in enumerate(zip(group.scores, rollouts, strict=True))
        )
        groups.append(replace(group, rollouts=rollouts, scores=scores))
    return groups


def _leaves(groups: list[Group], seed: int = 5) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {r.id: torch.tensor(r.sampling_log_probs + 0.3 * rng.normal(size=r.length), requires_grad=True) for r in all_rollouts(groups)}


def _run(algorithm: Algorithm, parts: list[Credit], leaves: dict[str, torch.Tensor]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    metrics: dict[str, float] = {}
    for leaf in leaves.values():
        leaf.grad = None
    for part in parts:
        output = algorithm.loss(part, torch.cat([leaves[rollout.id] for rollout in part.rollouts]))
        output.loss.backward()  # type: ignore[no-untyped-call]
        for key, value in output.metrics.items():
            metrics[key] = metrics.get(key, 0.0) + value
    return metrics, {id_: leaf.grad.clone() for id_, leaf in leaves.items() if leaf.grad is not None}


def _credit(algorithm: Algorithm, groups: list[Group]) -> Credit:
    return algorithm.credit(groups, np.random.default_rng(0))


@pytest.mark.parametrize(("name", "options"), EVERY, ids=IDS)
def test_eight_micro_batches_of_one_equal_one_of_eight(make_group: MakeGroup, name: str, options: dict[str, object]) -> None:
    algorithm, groups = load_algorithm(name, options), _groups(make_group, name)
    leaves, credit = _leaves(groups), _credit(algorithm, groups)
    whole, whole_gradient = _run(algorithm, [credit], leaves)
    parts = list(micro_batches(credit, 1))
    assert len(parts) >= 8
    pieces, piece_gradient = _run(algorithm, parts, leaves)
    assert pieces == pytest.approx(whole, rel=1e-9, abs=1e-12)
    assert set(whole_gradient) == set(piece_gradient)
    assert max(float(gradient.abs().max()) for gradient in whole_gradient.values()) > 0
    for id_, gradient in whole_gradient.items():
        torch.testing.assert_close(gradient, piece_gradient[id_], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), EVERY, ids=IDS)
def test_permuting_rollouts_and_groups_changes_nothing(make_group: MakeGroup, name: str, options: dict[str, object]) -> None:
    algorithm, groups = load_algorithm(name, options), _groups(make_group, name)
    leaves = _leaves(groups)
    plain, plain_gradient = _run(algorithm, [_credit(algorithm, groups)], leaves)
    order = [2, 0, 3, 1]
    shuffled = [
        replace(
            group,
            rollouts=tuple(group.rollouts[k] for k in order),
            scores=tuple(group.scores[k] for k in order),
            reference_log_probs=tuple(group.reference_log_probs[k] for k in order),
            preferences=None if group.preferences is None else group.preferences[np.ix_(order, order)],
        )
        for group in reversed(groups)
    ]
    mixed, mixed_gradient = _run(algorithm, [_credit(algorithm, shuffled)], leaves)
    assert mixed == pytest.approx(plain, rel=1e-6, abs=1e-7)
    for id_, gradient in plain_gradient.items():
        torch.testing.assert_close(gradient, mixed_gradient[id_], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "options"), EVERY, ids=IDS)
def test_an_absence_is_as_if_the_rollout_had_never_been(make_group: MakeGroup, name: str, options: dict[str, object]) -> None:
    algorithm, groups = load_algorithm(name, options), _groups(make_group, name)
    leaves = _leaves(groups)
    holed, shorter = list(groups), list(groups)
    for k in (1, 2, 5):
        group = groups[k]
        scores = (*group.scores[:1], Scores(None, "DEADLINE"), *group.scores[2:])
        holed[k] = replace(group, scores=scores)
        kept = [0, 2, 3]
        shorter[k] = replace(
            group,
            rollouts=tuple(group.rollouts[i] for i in kept),
            scores=tuple(group.scores[i] for i in kept),
            reference_log_probs=tuple(group.reference_log_probs[i] for i in kept),
            preferences=None if group.preferences is None else group.preferences[np.ix_(kept, kept)],
        )
    credit = _credit(algorithm, holed)
    assert credit.left_out["sample:absent:DEADLINE"] == 3
    assert credit.ledger_rows()["g1/1"]["credit"] is None
    with_hole, hole_gradient = _run(algorithm, [credit], leaves)
    without, gradient = _run(algorithm, [_credit(algorithm, shorter)], leaves)
    assert with_hole == without
    assert set(hole_gradient) == set(gradient)
    assert all(torch.equal(hole_gradient[id_], gradient[id_]) for id_ in gradient)
    assert "g1/1" not in gradient


@pytest.mark.parametrize(("name", "options"), EVERY, ids=IDS)
def test_the_loss_has_the_gradient_of_its_value(make_group: MakeGroup, name: str, options: dict[str, object]) -> None:
    """Through credit, sums over tokens and reduction; losses that stop gradients on purpose are checked term by term elsewhere."""
    if name in {"nash_md", "wpo"}:
        pytest.skip("stops gradients on purpose: its value is not what its gradient belongs to")
    algorithm, groups = load_algorithm(name, options), _groups(make_group, name)[:2]
    credit = _credit(algorithm, groups)
    leaves = _leaves(groups)
    start = torch.cat([leaves[rollout.id].detach() for rollout in credit.rollouts]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda log_probs: algorithm.loss(credit, log_probs).loss, (start,))


@pytest.mark.parametrize(("name", "options"), EVERY, ids=IDS)
def test_a_step_moves_towards_the_better_rollout(make_group: MakeGroup, name: str, options: dict[str, object]) -> None:
    """From the policy that sampled, equal to the reference, on groups of two of equal length with a clear winner."""
    second = SECOND_SOURCE.get(name, "policy")
    groups = []
    for k in range(3):
        group = make_group(
            f"g{k}",
            [2.0, -2.0, -2.0],
            lengths=[3, 3, 3],
            seed=k,
            preferences=np.array([[np.nan, 0.9, 0.9], [0.1, np.nan, 0.5], [0.1, 0.5, np.nan]]),
        )
        sources: tuple[Source, Source, Source] = ("policy", "policy", second)
        rollouts = tuple(replace(r, source=s, sampling_log_probs=np.full(3, -0.7)) for r, s in zip(group.rollouts, sources, strict=True))
        scores = tuple(Scores(s.reward, token_rewards=np.zeros(3, np.float32)) for s in group.scores)
        groups.append(replace(group, rollouts=rollouts, scores=scores, reference_log_probs=tuple(r.sampling_log_probs for r in rollouts)))
    algorithm = load_algorithm(name, options)
    credit = _credit(algorithm, groups)
    log_probs = torch.cat([torch.tensor(r.sampling_log_probs) for r in credit.rollouts]).double().requires_grad_()
    (gradient,) = torch.autograd.grad(algorithm.loss(credit, log_probs).loss, log_probs)
    pushes = dict(zip([r.id for r in credit.rollouts], credit.layout.sum(-gradient).tolist(), strict=True))
    for k in range(3):
        assert pushes[f"g{k}/0"] > max(push for id_, push in pushes.items() if id_ != f"g{k}/0" and id_.startswith(f"g{k}/"))


def test_references_are_asked_for_where_they_are_needed() -> None:
    without = {"simpo", "alpha_po", "pro", "rrhf", "dno", "sppo", "spo"}
    for name, _ in EVERY:
        assert load_algorithm(name).needs_reference == (name not in without), name
    anchored: list[tuple[str, dict[str, object]]] = [
        ("dno", {"anchor": "reference"}),
        ("sppo", {"anchor": "reference"}),
        ("spo", {"beta": 0.1}),
    ]
    for name, options in anchored:
        assert load_algorithm(name, options).needs_reference


@pytest.mark.parametrize("name", ["simpo", "alpha_po", "pro", "rrhf", "dno", "sppo", "spo"])
def test_no_reference_is_no_hindrance(make_group: MakeGroup, name: str) -> None:
    algorithm = load_algorithm(name)
    credit = _credit(algorithm, [make_group("g", [0.0, 1.0, 3.0], with_reference=False)])
    assert len(credit.rollouts) == 3
    output = algorithm.loss(credit, torch.zeros(credit.layout.tokens))
    assert "kl" not in output.metrics
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize(("name", "source"), SECOND_SOURCE.items())
def test_without_the_other_source(make_group: MakeGroup, name: str, source: str) -> None:
    """XPO and SePPO have no pair; Nash-MD plays against itself."""
    credit = _credit(load_algorithm(name), [make_group("g", [0.0, 1.0, 3.0])])
    assert credit.is_empty == (name != "nash_md")
    if name != "nash_md":
        assert credit.left_out == {"sample:no_pair": 3}


def test_own_samples_only_where_the_sampling_log_probs_stand_for_the_previous_policy(make_group: MakeGroup) -> None:
    group = make_group("g", [0.0, 1.0, 3.0])
    group = replace(group, rollouts=(*group.rollouts[:2], replace(group.rollouts[2], source="replay")))
    kept = {
        name: len(_credit(load_algorithm(name), [group]).rollouts) for name in ("online_dpo", "kto", "dno", "sppo", "inpo", "tgdpo", "spo")
    }
    assert kept == {"online_dpo": 3, "kto": 3, "dno": 2, "sppo": 2, "inpo": 2, "tgdpo": 2, "spo": 2}
    assert len(_credit(load_algorithm("dno", {"anchor": "reference"}), [group]).rollouts) == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("online_dpo", {"loss": "ipo"}, "loss"),
        ("online_dpo", {"label_smoothing": 0.5}, "label_smoothing"),
        ("inpo", {"beta": 0.5, "eta": 0.1}, "eta must be at least beta"),
        ("f_dpo", {"divergence": "alpha", "alpha": 1.0}, "alpha"),
        ("gpo", {"function": "cubic"}, "function"),
        ("kto", {"desirable_weight": 0}, "desirable_weight"),
    ],
)
def test_bad_configurations_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        load_algorithm(name, options)


@pytest.mark.parametrize(("name", "options"), EVERY, ids=IDS)
def test_the_wrong_credit_and_the_wrong_shape_are_refused(make_group: MakeGroup, name: str, options: dict[str, object]) -> None:
    algorithm, groups = load_algorithm(name, options), _groups(make_group, name)
    count = sum(rollout.length for rollout in all_rollouts(groups))
    for wrong in (token_credit(groups, torch.zeros(count), kl_coef=0.0), _other(algorithm, groups)):
        with pytest.raises(TypeError, match=rf"{name} takes .*, got {type(wrong).__name__}"):
            algorithm.loss(wrong, torch.zeros(wrong.layout.tokens))
    with pytest.raises(ValueError, match="log_probs has shape"):
        algorithm.loss(_credit(algorithm, groups), torch.zeros(1))
    with pytest.raises(ValueError, match="has no state"):
        algorithm.load_state({"x": 1.0})


def _other(algorithm: Algorithm, groups: list[Group]) -> PairCredit | SequenceCredit:
    if isinstance(_credit(algorithm, groups), PairCredit):
        return sequence_credit(groups, target="reward")
    return pair_credit(groups, np.random.default_rng(0))


def test_an_anchored_loss_without_references_says_so(make_group: MakeGroup) -> None:
    credit = pair_credit([make_group("g", [0.0, 1.0])], np.random.default_rng(0), needs_reference=False)
    with pytest.raises(ValueError, match="reference_log_probs must be given"):
        load_algorithm("online_dpo").loss(credit, torch.zeros(credit.layout.tokens))


def test_tgdpo_with_no_guidance_and_reverse_kl_f_dpo_are_dpo(make_group: MakeGroup) -> None:
    groups = _groups(make_group, "online_dpo")
    leaves = _leaves(groups)
    results = []
    for name, options in (
        ("online_dpo", {}),
        ("tgdpo", {"alpha": 0.0}),
        ("f_dpo", {"divergence": "reverse_kl"}),
        ("gpo", {"function": "logistic"}),
    ):
        algorithm = load_algorithm(name, options)
        results.append(_run(algorithm, [_credit(algorithm, groups)], leaves)[0]["loss"])
    assert results == pytest.approx([results[0]] * 4, rel=1e-12)


def test_kto_takes_z_from_the_whole_batch(make_group: MakeGroup) -> None:
    group = make_group("g", [0.0, 1.0], lengths=[1, 1])
    references = tuple((r.sampling_log_probs - 0.5).astype(np.float32) for r in group.rollouts)
    algorithm = load_algorithm("kto", {"beta": 2.0})
    credit = _credit(algorithm, [replace(group, reference_log_probs=references)])
    assert isinstance(credit, SequenceCredit)
    assert credit.kl == pytest.approx(0.5, abs=1e-6)
    log_probs = torch.tensor(np.concatenate(references)) + torch.tensor([0.9, 0.1])
    win, up, down = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-0.8)), 1 / (1 + np.exp(0.8))  # beta (rho - z) is .8 and -.8
    losses = [(1 - win) * down + win * up, win * up + (1 - win) * down]
    assert float(algorithm.loss(credit, log_probs).loss) == pytest.approx(np.mean(losses), abs=1e-6)


def test_list_losses_add_the_likelihood_of_the_best(make_group: MakeGroup) -> None:
    groups = [make_group("g", [0.0, 2.0, 1.0], with_reference=False), make_group("h", [1.0, 0.0], with_reference=False)]
    leaves = _leaves(groups)
    best = [leaves[id_].detach().sum().item() for id_ in ("g/1", "h/0")]
    for name, counts in (("rrhf", [1.0, 1.0]), ("pro", [4.0, 1.0])):
        results = []
        for weight in (0.0, 0.5):
            algorithm = load_algorithm(name, {"sft_weight": weight})
            results.append(_run(algorithm, [_credit(algorithm, groups)], leaves)[0]["loss"])
        expected = -0.5 * sum(count * log_prob for count, log_prob in zip(counts, best, strict=True)) / 2
        assert results[1] - results[0] == pytest.approx(expected, rel=1e-6)
