"""What a method sees: batches, passes, and arithmetic that keeps networks apart."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from vision_problems import (
    CLASSES,
    Net,
    data,
    noise,
    start,
    task,
)

from palimpsest.kernels import project_orthogonal
from palimpsest.training import epoch_order
from palimpsest.unlearning.vision.task import cross_entropy, frozen_statistics

# Data.


def test_batches_cover_every_index_of_every_network_once():
    t = task(2)
    for n, size, count in ((14, 4, 4), (14, 14, 1), (14, 100, 1), (6, 4, 2), (5, 2, 2), (2, 2, 1), (3, 2, 1)):
        t.batch_size = size
        indices = torch.stack([torch.arange(100, 100 + n), torch.arange(200, 200 + n)])
        batches = list(t.batches(indices, 1))
        assert len(batches) == count
        assert min(map(len, batches)) >= 2
        assert max(map(len, batches)) <= max(size, 3)
        assert torch.equal(torch.cat(batches).sort(0).values, indices.T)
        for k, seed in enumerate(t.seeds):  # the order of the training loop: a function of seed and epoch
            assert torch.equal(torch.cat(batches)[:, k], indices[k, epoch_order(n, seed, 1)])


def test_pairs_cover_the_retain_set_once_and_the_forget_set_in_turns():
    t = task(2)
    pairs = list(t.paired(1))
    assert len(pairs) == 4  # 14 retained samples in fours
    assert torch.equal(torch.cat([r for _, r in pairs]).sort(0).values, t.retain.T)
    for turn in (pairs[:2], pairs[2:]):  # 6 forgotten ones in two batches
        assert torch.equal(torch.cat([f for f, _ in turn]).sort(0).values, t.forget.T.sort(0).values)
    orders = [torch.cat([f for f, _ in turn]).tolist() for turn in (pairs[:2], pairs[2:])]
    orders += [torch.cat([f for f, _ in list(t.paired(epoch))[:2]]).tolist() for epoch in (0, 2)]
    assert all(orders[i] != orders[j] for i in range(4) for j in range(i)), "the order of a turn came back"


def test_an_epoch_passes_exactly_so_many_retain_samples_drawn_anew():
    t = task(2, retain_samples=9)
    epochs = [torch.cat(list(t.retained(epoch))) for epoch in range(3)]
    for k in range(2):
        for passed in epochs:
            assert len(set(passed[:, k].tolist())) == 9
            assert torch.isin(passed[:, k], t.retain[k]).all()
        assert len({tuple(sorted(passed[:, k].tolist())) for passed in epochs}) == 3, "the same ones came back"
    # Nearly equal batches, as of any nine; those of networks and epochs are functions of seed and epoch.
    assert [len(batch) for batch in t.retained(0)] == [3, 3, 3]
    assert torch.equal(torch.cat(list(t.retained(1))), epochs[1])
    for k, seed in enumerate(t.seeds):
        assert torch.equal(epochs[1][:, k], t.retain[k, epoch_order(14, seed, 1)[:9]])
    # None, and all of them, are the epoch as it was.
    for count in (None, 14):
        whole = task(2, retain_samples=count)
        for a, b in zip(whole.retained(1), whole.batches(whole.retain, 1), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("retained", "size", "places"),
    [
        (14, 4, [True, False, True, False]),  # two forget batches over four retain ones
        (9, 4, [True, True, False]),
        (14, 2, [True, False, True, False, True, False, False]),
        (3, 2, [True]),  # one retain batch for three forget ones: they come together
        (5, 2, [True, True]),
    ],
)
def test_pairs_of_a_fixed_number_have_each_forget_sample_once(retained, size, places):
    t = task(2, retain_samples=retained, batch_size=size)
    pairs = list(t.paired(1))
    assert [forget is not None for forget, _ in pairs] == places
    assert torch.equal(torch.cat([r for _, r in pairs]), torch.cat(list(t.retained(1))))
    forgotten = torch.cat([f for f, _ in pairs if f is not None])
    assert torch.equal(forgotten.sort(0).values, t.forget.T.sort(0).values)
    again = torch.cat([f for f, _ in t.paired(2) if f is not None])
    assert not torch.equal(again, forgotten), "the order came back"


def test_images_and_labels_are_those_of_each_network():
    t = task(2)
    batch = torch.tensor([[3, 5], [0, 19], [3, 3]])
    for i in range(3):
        for k in range(2):
            assert torch.equal(t.images(batch)[i, k], t.x[k, batch[i, k]])
            assert t.labels(batch)[i, k] == t.y[k, batch[i, k]]


def test_generators_differ_by_seed_epoch_and_purpose():
    t = task(2)
    draws = {
        torch.rand((), generator=t.generator(e, k, p)).item() for e in range(3) for k in range(2) for p in (1, 2)
    }
    assert len(draws) == 12
    assert len({torch.rand((), generator=t.generator(1, 0, 1)).item() for _ in range(2)}) == 1


def test_cross_entropy_is_the_mean_of_each_network():
    logits, labels = (
        torch.randn(5, 2, CLASSES, generator=torch.Generator().manual_seed(1)),
        torch.arange(10).view(5, 2),
    )
    expected = [F.cross_entropy(logits[:, k], labels[:, k] % CLASSES) for k in range(2)]
    torch.testing.assert_close(cross_entropy(logits, labels % CLASSES), torch.stack(expected))


# Networks apart, against one network at a time.


def apart(gradients: list[Tensor], k: int, networks: int) -> list[Tensor]:
    return [g.chunk(networks)[k] for g in gradients]


@pytest.mark.parametrize("networks", [1, 3])
def test_arithmetic_is_that_of_each_network(networks):
    t = task(networks, quantised=True)
    assert {p.shape for p in t.parameters} >= {(networks,), (networks, CLASSES, 36)}  # steps, the heads
    a, b = noise(t.parameters, 1), noise(t.parameters, 2)
    factors = torch.arange(1.0, networks + 1, dtype=torch.float64)
    close = {"rtol": 1e-12, "atol": 1e-12}
    for k in range(networks):
        x, y = apart(a, k, networks), apart(b, k, networks)
        torch.testing.assert_close(t.dot(a, b)[k], sum((u * v).sum() for u, v in zip(x, y, strict=True)), **close)
        torch.testing.assert_close(t.norms(a)[k], sum(u.norm() for u in x), **close)
        for whole, part in zip(t.scaled(a, factors), x, strict=True):
            assert torch.equal(whole.chunk(networks)[k], part * factors[k])
        for whole, part in zip(a, x, strict=True):
            assert torch.equal(t.split(whole)[k].flatten(), part.flatten())
        for mode in ("always", "conflict"):
            for scope in ("model", "layer"):
                expected = project_orthogonal(x, y, 0.7, mode, scope, backend="reference")
                found = apart(t.projected(a, b, 0.7, mode, scope), k, networks)
                for u, v in zip(found, expected, strict=True):
                    torch.testing.assert_close(u, v, **close)


def test_gradients_are_those_of_each_network_and_are_counted():
    t = task(2)
    batch = next(t.batches(t.retain, 0))
    found = t.gradients(cross_entropy(t.logits(t.images(batch)), t.labels(batch)))
    assert (t.samples_forward, t.samples_backward) == (4, 4)
    for k, model in enumerate(start(range(2))):
        loss = F.cross_entropy(model.train()(t.images(batch)[:, k]), t.labels(batch)[:, k])
        for whole, part in zip(found, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            torch.testing.assert_close(t.split(whole)[k].view_as(part), part, rtol=1e-10, atol=1e-12)
    t.evaluate(t.images(t.forget.T))
    assert (t.samples_forward, t.samples_backward) == (4 + 6, 4)


def test_frozen_statistics_normalise_by_the_batch_and_move_nothing():
    model = Net(0).double().train()
    norm, x = model.body[1], data(1)[0][0]
    expected = copy.deepcopy(model)(x)
    before = {name: value.clone() for name, value in norm.named_buffers()}
    with frozen_statistics(model):
        found = model(x)
    assert torch.equal(found, expected)
    assert all(torch.equal(value, before[name]) for name, value in norm.named_buffers())
    assert norm.momentum == 0.1
    with pytest.raises(KeyError), frozen_statistics(model):
        raise KeyError
    model(x)
    assert int(norm.num_batches_tracked) == 1
    assert not torch.equal(norm.running_mean, before["running_mean"])


def test_the_original_stays_and_is_in_evaluation_mode():
    t = task(2)
    original, x = t.original, t.images(t.forget.T)
    before = original(x)
    with torch.no_grad():
        t.net.head.weight.zero_()
    t.logits(x)
    assert torch.equal(t.original(x), before)
    assert not any(p.requires_grad for p in original.parameters())
    assert not original.training
    assert t.net.training
