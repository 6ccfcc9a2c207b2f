"""Attention over the tree with gradients is attention over each sequence with gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rewardmesh.engine.attention_gradient import attention_with_gradients
from rewardmesh.engine.packing import Plan, make_plan

HEADS, KEY_HEADS, WIDTH = 4, 2, 8


@pytest.fixture(params=[None, "last", "answers"])
def plan(request: pytest.FixtureRequest) -> Plan:
    """A system prompt over two prompts over answers, one of them twice, and a stranger; all rows wanted, or only some."""
    system, first, second = [1] * 9, [2] * 8, [3] * 11
    sequences = [[*system, *first, 4, 5, 6], [*system, *first, 7, 8], [*system, *second, 9], [*system, *second, 9], [10] * 5]
    wanted = {None: None, "last": [len(s) - 1 for s in sequences], "answers": [16, 16, 18, 18, 2]}
    return make_plan(sequences, first=wanted[request.param])


def drawn(plan: Plan, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = len(plan.token_ids)
    shapes = [(1, heads, tokens, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes)
    return q, k, v


def by_formula(plan: Plan, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """The whole row at once under a mask: a row sees the rows of its ancestors and those before it in its segment."""
    tokens = len(plan.token_ids)
    seen = torch.zeros(tokens, tokens, dtype=torch.bool)
    for segment in plan.segments:
        rows = torch.arange(segment.start, segment.stop)
        for ancestor in segment.ancestors:
            above = plan.segments[ancestor]
            seen[rows, above.start : above.stop] = True
        seen[segment.start : segment.stop, segment.start : segment.stop] = torch.ones(len(rows), len(rows)).tril().bool()
    key, value = (x.repeat_interleave(HEADS // KEY_HEADS, dim=1) for x in (key, value))
    logits = (query @ key.transpose(2, 3) * scaling).masked_fill(~seen, -torch.inf)
    return (logits.softmax(dim=3) @ value).transpose(1, 2)


@pytest.mark.parametrize("scaling", [None, 0.3])
def test_output_and_gradients_are_those_of_the_formula(plan: Plan, scaling: float | None) -> None:
    inputs = drawn(plan, torch.float64)
    starts = None if plan.wanted is None else plan.query_starts
    found = attention_with_gradients(*inputs, plan, scaling, starts)
    expected = by_formula(plan, *inputs, scaling or WIDTH**-0.5)
    rows = (
        torch.arange(len(plan.token_ids))
        if starts is None
        else torch.cat([torch.arange(start, segment.stop) for start, segment in zip(starts, plan.segments, strict=True)])
    )
    torch.testing.assert_close(found[:, rows], expected[:, rows], atol=1e-12, rtol=0)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((found * upstream)[:, rows].sum(), inputs),
        torch.autograd.grad((expected * upstream)[:, rows].sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_gradients_are_those_of_finite_differences(plan: Plan) -> None:
    inputs = drawn(plan, torch.float64)
    starts = None if plan.wanted is None else plan.query_starts
    assert torch.autograd.gradcheck(lambda q, k, v: attention_with_gradients(q, k, v, plan, None, starts), inputs, fast_mode=True)


def test_rows_that_nobody_wants_get_no_gradient(plan: Plan) -> None:
    inputs = drawn(plan, torch.float32)
    output = attention_with_gradients(*inputs, plan, None, plan.query_starts)
    (to_query,) = torch.autograd.grad(output.sum(), inputs[:1])
    before = [torch.arange(segment.start, start) for segment, start in zip(plan.segments, plan.query_starts, strict=True)]
    assert not to_query[:, :, torch.cat(before)].any()
