"""Methods that learn from teachers: divergences and gradients by hand."""

import copy
import math

import pytest
import torch
from stepping_problems import (
    BATCH,
    CLASSES,
    EPOCHS,
    EPS,
    FORGET,
    RETAIN,
    SAMPLES,
    SIDE,
    Small,
    by_hand,
    close,
    drive,
    flat,
    networks,
    run,
    set_gradients,
    task_of,
    watch,
)
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.nets.quantised import QuantisedConv2d, steps
from palimpsest.unlearning.vision import (
    BadTeacher,
    Scrub,
)
from palimpsest.unlearning.vision.bad_teacher import incompetent
from palimpsest.unlearning.vision.distillation import divergence


def test_divergence_by_hand():
    # p = (3/4, 1/4) and q = (1/2, 1/2): KL(p‖q) = 3/4 ln 3/2 + 1/4 ln 1/2, and KL(q‖p) = 1/2 ln 2/3 + 1/2 ln 2.
    p, q = torch.tensor([0.75, 0.25]).log(), torch.tensor([0.5, 0.5]).log()
    forward, backward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5), 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    teacher, student = torch.stack([torch.stack([p, q]), torch.stack([p, p])]), torch.stack([q, p]).expand(2, 2, 2)
    # Network 0: two samples p‖q. Network 1: q‖p and p‖p.
    expected = torch.tensor([forward, backward / 2])
    bound = 8 * EPS  # some eight roundings of numbers below 1
    torch.testing.assert_close(divergence(teacher, student), expected, rtol=0, atol=bound)
    torch.testing.assert_close(divergence(3 * teacher, 3 * student, 3.0), 9 * expected, rtol=0, atol=9 * 3 * bound)


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    return (teacher.softmax(1) * (teacher.softmax(1).log() - student.softmax(1).log())).sum(1).mean()


def test_scrub_runs_from_the_original_first_and_stays_near_it_after(monkeypatch):
    model = Small(0)
    original, method = copy.deepcopy(model).eval(), Scrub(alpha=0.2, gamma=0.6, max_epochs=2, temperature=3.0)
    task = task_of([model])
    method.begin(task)
    assert (task.samples_forward, task.samples_backward) == (SAMPLES, 0)
    with torch.no_grad():
        task.net.head.weight.mul_(2)  # the teacher must stay what it was
    model.head.weight.data *= 2
    seen = watch(task, monkeypatch)
    walk = method.epoch(task, 0)
    next(walk)
    x = task.x[0, seen[0][:, 0]]
    assert torch.isin(seen[0], task.forget).all()
    close(set_gradients(task), -9 * by_hand(model, lambda net: kl(original(x).detach() / 3, net(x) / 3)))
    next(walk)
    next(walk)
    x, y = task.x[0, seen[2][:, 0]], task.y[0, seen[2][:, 0]]
    assert torch.isin(seen[2], task.retain).all()
    # The max-steps changed no weight (nothing stepped), and batch norm in training mode does not read its statistics.
    near = by_hand(model, lambda net: kl(original(x).detach() / 3, net(x) / 3))
    right = by_hand(model, lambda net: F.cross_entropy(net(x), y))
    close(set_gradients(task), 0.2 * 9 * near + 0.6 * right)


def test_scrub_leaves_the_forget_set_alone_after_its_max_epochs(monkeypatch):
    task = task_of([Small(0)])
    method = Scrub(max_epochs=2)
    method.begin(task)
    seen = watch(task, monkeypatch)
    found = []
    for epoch in range(EPOCHS):
        seen.clear()
        drive(method, task, epoch)
        found.append([("retain", "forget")[int(torch.isin(batch, task.forget).all())] for batch in seen])
        assert torch.equal(torch.cat(seen)[-RETAIN:, 0].sort().values, task.retain[0])
    assert found == [["forget"] * 2 + ["retain"] * 3] * 2 + [["retain"] * 3] * 2


def test_bad_teacher_learns_from_the_right_teacher(monkeypatch):
    models = [Small(0), Small(1)]
    originals, method = (
        [copy.deepcopy(model).eval() for model in models],
        BadTeacher(retain_share=0.5, temperature=2.0),
    )
    task = task_of(models)
    method.begin(task)
    kept = task.memory["kept"]
    assert kept.shape == (2, RETAIN // 2)
    assert all(len(set(row.tolist())) == RETAIN // 2 for row in kept)
    assert all(torch.isin(kept[k], task.retain[k]).all() for k in range(2))
    assert task.samples_forward == FORGET + RETAIN // 2
    random = incompetent(task)
    with torch.no_grad():
        random = random.eval()(task.x.transpose(0, 1))
    seen = watch(task, monkeypatch)
    walk = method.epoch(task, 0)
    next(walk)
    for k, model in enumerate(models):
        batch = seen[0][:, k]
        x = task.x[k, batch]
        forget = torch.isin(batch, task.forget[k])[:, None]
        assert 0 < forget.sum() < len(batch), "a batch of one kind would not tell the teachers apart"
        teacher = torch.where(forget, random[batch, k], originals[k](x).detach())
        expected = by_hand(model, lambda net, x=x, teacher=teacher: 4 * kl(teacher / 2, net(x) / 2))
        close(flat(task.split(p.grad)[k] for p in task.parameters), expected)
    for _ in walk:
        pass
    for k in range(2):
        everything = torch.cat([task.forget[k], kept[k]]).sort().values
        assert torch.equal(torch.cat(seen)[:, k].sort().values, everything)


def test_an_incompetent_teacher_is_random_by_seed_and_alone_as_in_lockstep():
    torch.manual_seed(0)
    start = torch.random.get_rng_state()
    together = incompetent(task_of([Small(0), Small(0)]))
    assert torch.equal(torch.random.get_rng_state(), start)
    for k in range(2):
        alone = incompetent(task_of([Small(0)], first=k))
        for found, expected in zip(together.parameters(), alone.parameters(), strict=True):
            assert torch.equal(found.chunk(2)[k], expected)
    assert not torch.equal(*together.body[0].weight.chunk(2))
    assert not torch.equal(together.body[0].weight[:3], Small(0).body[0].weight)
    assert (together.body[1].running_mean == 0).all()


def test_a_quantised_incompetent_teacher_starts_its_steps_anew():
    models = networks("W4A4", 1)
    task = task_of(models)
    with torch.no_grad():  # trained steps under which every activation of a random network rounds to zero
        for step in steps(models[0]).values():
            step.fill_(100.0)
    teacher = incompetent(task)
    assert task.samples_forward == BATCH
    layer = teacher.body[0]
    assert isinstance(layer, QuantisedConv2d)
    images = task.x[0, task.forget[0, :BATCH]]
    # A signed image at 4 bits has Q_P = 7, and so has the weight.
    for step, values in ((layer.weight_step, layer.weight), (layer.input_step, images)):
        torch.testing.assert_close(step[0], 2 * values.abs().mean() / math.sqrt(7), rtol=4 * EPS, atol=0)
    with torch.no_grad():
        spread = teacher.eval()(task.x.transpose(0, 1)).std(0)
    assert (spread > 0).all(), "the teacher answers every image alike"
    assert all((step == 100).all() for step in steps(models[0]).values())


def test_a_layer_that_cannot_be_reset_is_named():
    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.by

    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, CLASSES), Offset())
    with pytest.raises(ValueError, match=r"^models: got layer '2' without reset_parameters"):
        run(BadTeacher(), [model])
