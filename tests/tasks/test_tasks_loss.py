"""The chunked loss equals torch's cross-entropy, and so do its gradients."""

import pytest
import torch
import torch.nn.functional as F

from raymodel.tasks import loss as loss_module
from raymodel.tasks.loss import cross_entropy_sum, next_token_loss


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(loss_module, "_CHUNK_ELEMENTS_CPU", 3 * 17)  # 3 rows of 17 classes


def example(dtype=torch.float32, rows=4, length=11, classes=17):
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(rows, length, classes, generator=generator) * 3).to(dtype)
    labels = torch.randint(0, classes, (rows, length), generator=generator)
    labels[0, :5] = -100
    labels[2, -1] = -100
    return logits.requires_grad_(), labels


def reference(logits, labels):
    return F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )


@pytest.mark.usefixtures("small_chunks")
def test_loss_and_gradient_equal_the_plain_cross_entropy():
    logits, labels = example()
    expected = reference(logits, labels)
    (expected_grad,) = torch.autograd.grad(expected / 7, logits)
    actual = next_token_loss(logits, labels)
    (actual_grad,) = torch.autograd.grad(actual / 7, logits)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual_grad, expected_grad)


@pytest.mark.usefixtures("small_chunks")
def test_bf16_logits_give_an_fp32_loss_and_a_bf16_gradient():
    logits, labels = example(torch.bfloat16)
    expected = reference(logits, labels)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    actual = next_token_loss(logits, labels)
    (actual_grad,) = torch.autograd.grad(actual, logits)
    assert actual.dtype == torch.float32
    assert actual_grad.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual_grad, expected_grad)


def test_rows_without_a_target_give_zero_even_with_infinite_logits():
    logits = torch.full((2, 5), float("inf"), requires_grad=True)
    loss = cross_entropy_sum(logits, torch.tensor([-100, -100]))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 5))


def test_a_nan_logit_of_a_target_makes_the_loss_nan():
    logits = torch.zeros(1, 5)
    logits[0, 2] = float("nan")
    assert cross_entropy_sum(logits, torch.tensor([1])).isnan()


def test_no_fp32_copy_of_the_logits_is_kept_for_the_backward_pass():
    logits, labels = example(torch.bfloat16, length=64, classes=1000)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        next_token_loss(logits, labels)
    fp32_elements = sum(t.numel() for t in kept if t.dtype == torch.float32)
    assert fp32_elements == 4 * 64  # one number a token


def test_the_gradient_takes_the_place_of_the_logits():
    leaf, labels = example(torch.bfloat16)
    logits = leaf * 2
    places = []
    logits.register_hook(lambda grad: places.append(grad.data_ptr()))
    next_token_loss(logits, labels).backward()
    assert places == [logits.data_ptr()]


def test_logits_that_their_maker_still_needs_are_refused_not_spoilt():
    leaf, labels = example()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        next_token_loss(leaf.tanh(), labels).backward()
