"""What a student loses against its teacher, chunk by chunk, equals torch's own on whole tensors."""

import pytest
import torch
import torch.nn.functional as F

from raymodel.tasks import loss as loss_module
from raymodel.tasks.distilled import distilled_loss_sum
from raymodel.tasks.loss import Scores


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(loss_module, "_CHUNK_ELEMENTS_CPU", 3 * 17)  # 3 rows of 17 classes


def example(dtype=torch.float32, rows=11, classes=17):
    draw = torch.Generator().manual_seed(3)
    student, teacher = (
        (torch.randn(rows, classes, generator=draw) * 3).to(dtype) for _ in range(2)
    )
    targets = torch.randint(0, classes, (rows,), generator=draw)
    targets[[0, 4]] = -100
    return student.requires_grad_(), teacher, targets


def reference(student, teacher, targets, temperature, weight):
    """By torch, over all rows at once."""
    bears = targets != -100
    soft = F.kl_div(
        (student.float() / temperature).log_softmax(-1)[bears],
        (teacher.float() / temperature).log_softmax(-1)[bears],
        reduction="sum",
        log_target=True,
    )
    hard = F.cross_entropy(student.float(), targets, reduction="sum")
    return (1 - weight) * hard + weight * temperature**2 * soft


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (2.0, 0.5), (0.7, 0.9)])
def test_loss_and_gradient_are_those_of_the_whole_tensors(dtype, temperature, weight):
    student, teacher, targets = example(dtype)
    expected = reference(student, teacher, targets, temperature, weight)
    (expected_grad,) = torch.autograd.grad(expected / 7, student)
    actual = distilled_loss_sum(
        Scores(logits_NV=student, targets_N=targets),
        teacher,
        temperature=temperature,
        weight=weight,
    )
    (actual_grad,) = torch.autograd.grad(actual / 7, student)
    assert actual.dtype == torch.float32
    assert actual_grad.dtype == dtype
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual_grad, expected_grad)


def test_a_student_that_says_what_its_teacher_says_loses_nothing_and_stays():
    _, teacher, targets = example()
    student = teacher.clone().requires_grad_()
    loss = distilled_loss_sum(
        Scores(logits_NV=student, targets_N=targets), teacher, temperature=3.0, weight=1.0
    )
    (grad,) = torch.autograd.grad(loss, student)
    assert abs(loss.item()) < 1e-4
    assert grad.abs().max() < 1e-6


def test_the_pull_of_the_teacher_is_as_strong_at_any_high_temperature():
    """T² makes up for the T that each of logits and distance is divided by."""
    student, teacher, targets = example()
    pulls = []
    for temperature in (20.0, 40.0):
        scores = Scores(logits_NV=student.detach().clone().requires_grad_(), targets_N=targets)
        loss = distilled_loss_sum(scores, teacher, temperature=temperature, weight=1.0)
        (grad,) = torch.autograd.grad(loss, scores.logits_NV)
        pulls.append(grad.detach().norm().item())
    assert pulls[0] == pytest.approx(pulls[1], rel=0.05)


def test_of_a_mixed_example_both_classes_count_by_their_share_and_the_teacher_once():
    student, teacher, targets = example()
    others, share = targets.roll(1), torch.linspace(0, 1, len(targets))
    keep = (targets != -100) & (others != -100)
    targets, others = targets.where(keep, -100), others.where(keep, -100)
    scores = Scores(logits_NV=student, targets_N=targets, others_N=others, share_N=share)
    actual = distilled_loss_sum(scores, teacher, temperature=2.0, weight=0.25)
    soft = reference(student, teacher, targets, 2.0, 1.0)
    hard = Scores(logits_NV=student, targets_N=targets, others_N=others, share_N=share).loss()
    torch.testing.assert_close(actual, 0.75 * hard + 0.25 * soft)


def test_rows_without_a_target_give_zero_even_with_infinite_logits():
    logits = torch.full((2, 5), float("inf"), requires_grad=True)
    scores = Scores(logits_NV=logits, targets_N=torch.tensor([-100, -100]))
    loss = distilled_loss_sum(scores, torch.ones(2, 5), temperature=2.0, weight=0.5)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 5))


def test_beside_the_logits_of_both_only_numbers_of_a_row_are_kept_for_the_way_back():
    student, teacher, targets = example(torch.bfloat16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        scores = Scores(logits_NV=student, targets_N=targets)
        distilled_loss_sum(scores, teacher, temperature=2.0, weight=0.5)
    large = [tensor for tensor in kept if tensor.numel() > len(targets)]
    assert [(tensor.dtype, tensor.data_ptr()) for tensor in large] == [
        (torch.bfloat16, each.data_ptr()) for each in (student, teacher)
    ]
