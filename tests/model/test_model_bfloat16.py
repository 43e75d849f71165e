"""bf16 on a CPU without instructions for it: as exact, and not sixty times slower."""

from collections.abc import Iterator

import pytest
import torch

from raymodel.model import bfloat16


@pytest.fixture
def sped_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on such a CPU, whichever this is; PyTorch's own kernels come back after the test."""
    monkeypatch.setattr(bfloat16, "_library", None)
    monkeypatch.setattr(bfloat16, "has_fast_bf16", lambda: False)
    bfloat16.speed_up_bf16()
    yield
    assert bfloat16._library is not None
    bfloat16._library._destroy()


def products(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    a_BT, b_TC, bias_C = torch.randn(5, 64), torch.randn(64, 7), torch.randn(7)
    a_BT, b_TC, bias_C = (value.bfloat16().to(dtype) for value in (a_BT, b_TC, bias_C))
    batch = a_BT.expand(3, -1, -1).contiguous()
    weight = b_TC.T.contiguous().requires_grad_()
    found = {
        "mm": a_BT @ b_TC,
        "addmm": torch.addmm(bias_C, a_BT, b_TC, beta=0.5, alpha=2.0),
        "bmm": batch @ b_TC.expand(3, -1, -1),
        "baddbmm": torch.baddbmm(bias_C.expand(3, 5, 7), batch, b_TC.expand(3, -1, -1), alpha=2.0),
        "linear": torch.nn.functional.linear(a_BT, weight, bias_C),
    }
    (found["gradient"],) = torch.autograd.grad(found["linear"].square().sum(), weight)
    return {name: value.detach() for name, value in found.items()}


@pytest.mark.usefixtures("sped_up")
def test_each_product_is_the_one_of_fp32_rounded_once() -> None:
    exact, found = products(torch.float32), products(torch.bfloat16)
    gradients = exact.pop("gradient"), found.pop("gradient")
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    for name, value in exact.items():
        assert torch.equal(found[name], value.bfloat16()), name
    # What the loss sends back is rounded before it is multiplied again.
    torch.testing.assert_close(gradients[1].float(), gradients[0], rtol=2e-2, atol=0.5)


@pytest.mark.usefixtures("sped_up")
def test_other_formats_are_computed_as_before() -> None:
    a = torch.randn(4, 4, dtype=torch.float64)
    assert (a @ torch.eye(4, dtype=torch.float64)).dtype is torch.float64
    assert torch.equal(torch.ones(2, 3, dtype=torch.int64) @ torch.ones(3, 1, dtype=torch.int64),
                       torch.full((2, 1), 3))  # fmt: skip


def test_a_cpu_that_computes_bf16_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "_library", None)
    monkeypatch.setattr(bfloat16, "has_fast_bf16", lambda: True)
    bfloat16.speed_up_bf16()
    assert bfloat16._library is None
