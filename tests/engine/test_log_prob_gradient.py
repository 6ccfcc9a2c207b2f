"""Log-probabilities with gradients: what log_softmax gives, whatever is kept in memory and however the rows are cut."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rewardmesh.engine import log_prob_gradient
from rewardmesh.engine.log_prob_gradient import LogitRule, token_log_probs

ROWS, WIDTH, VOCABULARY = 11, 5, 17
RULES = [LogitRule(), LogitRule(temperature=0.7), LogitRule(scale=0.25), LogitRule(cap=1.5, scale=2.0, temperature=1.3)]


@pytest.fixture(params=[(512, 2**28), (4, 2**28), (4, 0), (4, 4 * VOCABULARY * 8)], ids=["whole", "cut", "none-kept", "one-kept"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, room = request.param
    monkeypatch.setattr(log_prob_gradient, "ROW_CHUNK", rows)
    monkeypatch.setattr(log_prob_gradient, "KEPT_BYTES", room)


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(ROWS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,)]
    states, weight, bias = (torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes)
    return states, weight, bias, torch.randint(0, VOCABULARY, (ROWS,), generator=generator)


def by_formula(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rule: LogitRule) -> Tensor:
    logits = (states @ weight.T + (0 if bias is None else bias)) * rule.scale
    if rule.cap is not None:
        logits = rule.cap * torch.tanh(logits / rule.cap)
    return torch.log_softmax(logits / rule.temperature, dim=1).gather(1, targets[:, None])[:, 0]


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients(rule: LogitRule, with_bias: bool) -> None:
    states, weight, bias, targets = drawn()
    given = (states, weight, bias if with_bias else None, targets, rule)
    inputs = (states, weight, bias) if with_bias else (states, weight)
    found, expected = token_log_probs(*given), by_formula(*given)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    upstream = torch.linspace(-1, 2, ROWS, dtype=torch.float64)
    for a, b in zip(torch.autograd.grad(found @ upstream, inputs), torch.autograd.grad(expected @ upstream, inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_gradients_are_those_of_finite_differences(rule: LogitRule) -> None:
    states, weight, bias, targets = drawn()
    assert torch.autograd.gradcheck(lambda s, w, b: token_log_probs(s, w, b, targets, rule), (states, weight, bias))


@pytest.mark.usefixtures("cut")
def test_a_second_backward_pass_gives_the_same() -> None:
    """The first one overwrites what was kept."""
    states, weight, bias, targets = drawn()
    total = token_log_probs(states, weight, bias, targets, LogitRule()).sum()
    first = torch.autograd.grad(total, (states, weight, bias), retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(total, (states, weight, bias)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_frozen_weights_get_no_gradient() -> None:
    states, weight, _, targets = drawn()
    values = token_log_probs(states, weight.detach(), None, targets, LogitRule())
    (found,) = torch.autograd.grad(values.sum(), states)
    (expected,) = torch.autograd.grad(by_formula(states, weight, None, targets, LogitRule()).sum(), states)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_an_unlikely_token_has_a_finite_log_prob() -> None:
    """Its probability is no float32 any more."""
    states, weight = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[0.0], [-200.0]])
    value = token_log_probs(states, weight, None, torch.tensor([1]), LogitRule())
    assert float(value.detach()) == pytest.approx(-200.0)
    (found,) = torch.autograd.grad(value.sum(), states)
    assert math.isfinite(float(found))
    assert float(found) == pytest.approx(-200.0)
