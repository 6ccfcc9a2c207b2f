"""The product that the processor is good at gives what torch's own gives."""

from __future__ import annotations

import pytest
import torch

from rewardmesh.engine import linear as module
from rewardmesh.engine.linear import Linear, linear, use_linear


@pytest.fixture(params=[True, False])
def preferred(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(module, "_preferred", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 7, 33), (5, 33), (0, 33), (300, 33)])
def test_it_gives_the_same(preferred: bool, shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(33, 50, bias=bias, dtype=dtype)
    states = torch.randn(shape, dtype=dtype)
    with torch.inference_mode():
        found = linear(states, layer.weight, layer.bias)
        torch.testing.assert_close(found, layer(states))
        part = linear(states, layer.weight[10:20], None if layer.bias is None else layer.bias[10:20])
        torch.testing.assert_close(part, layer(states)[..., 10:20])


def test_gradients_flow(preferred: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    use_linear(model)
    assert (type(model[0]) is Linear) == preferred
    model(torch.randn(3, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("shape", [(1, 7, 33), (5, 33), (300, 33)])
def test_gradients_are_the_same(preferred: bool, shape: tuple[int, ...], bias: bool, frozen: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(33, 50, bias=bias)
    layer.weight.requires_grad_(not frozen)
    states = torch.randn(shape, requires_grad=True)
    inputs = [states, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
    upstream = torch.randn(*shape[:-1], 50)
    found = torch.autograd.grad((linear(states, layer.weight, layer.bias) * upstream).sum(), inputs)
    expected = torch.autograd.grad((layer(states) * upstream).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)
