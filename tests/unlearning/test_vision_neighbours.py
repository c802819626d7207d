"""Datamodel matching, corrective unlearning and worst-case forget sets, on cases computed by hand."""

import pytest
import torch
from vision_problems import CLASSES, F_SIZE, N, data, start, state

from palimpsest.training import logits
from palimpsest.unlearning.vision import unlearn
from palimpsest.unlearning.vision.corrective import corrected_accuracy, poisoned, triggered
from palimpsest.unlearning.vision.datamodels import DatamodelMatching, centred, contribution, memberships
from palimpsest.unlearning.vision.neighbours import FORGET_SETS, NEIGHBOURS
from palimpsest.unlearning.vision.worst_case import largest, projected, updated, worst_case


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Datamodels.


def test_each_network_is_trained_on_its_share():
    members = memberships(7, 10, 0.5, generator())
    assert members.shape == (7, 10)
    assert members.dtype == torch.bool
    assert members.sum(1).tolist() == [5] * 7
    assert len(members.unique(dim=0)) > 1


def test_a_lasso_finds_what_few_samples_add():
    # Outputs that are linear in the memberships: sample 2 adds (1, -1) to sample 0's, sample 5 adds nothing.
    members = memberships(400, 8, 0.5, generator())
    effect = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    outputs = 3.0 + members[:, 2, None, None].double() * effect
    found = contribution(members, outputs, torch.tensor([2, 5]), penalty=0.01)
    # The lasso shrinks one coefficient by penalty / variance, and the variance of a fair coin is 1/4, up to the
    # sample's: a share of 400 coins varies by 0.025.
    assert found == pytest.approx(effect.numpy() * (1 - 0.04), abs=0.005)
    assert contribution(members, outputs, torch.tensor([5, 6]), penalty=0.01) == pytest.approx(0, abs=1e-9)
    # What a sample adds to all classes alike, softmax does not see.
    alike = members[:, 2, None, None].expand(-1, 1, 2) * 5.0
    assert contribution(members, alike, torch.tensor([2]), penalty=0.01).eq(0).all()


def test_matching_moves_outputs_to_what_was_predicted():
    x, y, forget = data()
    models = start([0, 1])
    goal = centred(logits(models, x)).roll(1, -1)
    before = (centred(logits(models, x)) - goal).square().mean()
    unlearn(models, x, y, forget, DatamodelMatching(predicted=goal), lr=0.1, epochs=8, batch_size=10)
    assert (centred(logits(models, x)) - goal).square().mean() < before / 2


def test_the_datamodels_correct_the_forget_set_and_count_their_trainings():
    x, y, forget = data()
    method = DatamodelMatching(networks=4, epochs=2, penalty=1e-3)
    kept = {}

    class Looked(DatamodelMatching):
        def begin(self, task):
            super().begin(task)
            kept["own"] = logits(task.models, task.x)
            kept["matched"] = task.memory["matched"].transpose(0, 1).clone()
            kept["work"] = task.samples_forward, task.samples_backward

    unlearn(start([0, 1]), x, y, forget, Looked(networks=4, epochs=2, penalty=1e-3), lr=0.01, epochs=1, batch_size=4)
    for k, model in enumerate(start([0, 1])):
        added = method.contribution(model, x[k], y[k], forget[k], seed=k, batch_size=4)
        rest = sorted(set(range(N)) - set(forget[k].tolist()))
        assert torch.equal(kept["matched"][k, rest], kept["own"][k, rest])
        assert torch.equal(kept["matched"][k, forget[k]], kept["own"][k, forget[k]] - added)
        assert added.abs().max() > 0
    # Two problems: each 4 networks on 10 of 20 samples for 2 epochs, and a look at 6; the originals look at 20.
    assert kept["work"] == (2 * (4 * 2 * 10 + 4 * F_SIZE) + N, 2 * 4 * 2 * 10)


def test_networks_of_one_problem_share_their_datamodels():
    # The first and the last network have one problem, and the seed of the first decides; the second has its own.
    x, y, forget = (part[[0, 1, 0]] for part in data())
    seen = []

    class Looked(DatamodelMatching):
        def begin(self, task):
            super().begin(task)
            own = logits(task.models, task.x)
            seen.extend((own - task.memory["matched"].transpose(0, 1))[k, forget[k]] for k in range(3))

    method = Looked(networks=4, epochs=1, penalty=1e-3)
    report = unlearn(start([0, 1, 2]), x, y, forget, method, lr=0.01, epochs=1, batch_size=4)
    assert torch.allclose(seen[0], seen[2], atol=1e-12)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    # Two problems' trainings, and an epoch of all 14 retain and, since they begin again, 12 forget samples.
    assert report.samples_backward == 2 * 4 * 10 + 14 + 12


def test_it_runs_by_name_and_refuses_what_it_cannot_use():
    assert isinstance(NEIGHBOURS["DMM"], DatamodelMatching)
    assert FORGET_SETS["worst case"] is worst_case
    x, y, forget = data(1)
    with pytest.raises(ValueError, match=r"^predicted: got shape"):
        unlearn(start([0]), x, y, forget, DatamodelMatching(predicted=torch.zeros(1, N, CLASSES + 1)), lr=0.1)
    with pytest.raises(ValueError, match=r"^models: got quantised layers"):
        unlearn(start([0], True), x, y, forget, NEIGHBOURS["DMM"], lr=0.1)
    with pytest.raises(ValueError, match=r"^members: got"):
        contribution(torch.ones(3, 4), torch.zeros(3, 2, 2), torch.tensor([0]), 0.1)
    with pytest.raises(ValueError, match=r"^share: got 2"):
        DatamodelMatching(share=2)


# Corrective unlearning.


def test_the_trigger_is_three_by_three_at_the_largest_value():
    image = torch.arange(16.0).view(1, 4, 4)
    patched = triggered(image)
    assert patched[0, 1:, 1:].eq(15).all()
    assert torch.equal(patched[0, 0], image[0, 0])
    assert image[0, 1, 1] == 5  # the image itself stays
    with pytest.raises(ValueError, match=r"^images: got shape"):
        triggered(torch.zeros(2, 3))


def test_poison_touches_the_chosen_samples_alone():
    x, y, forget = data()
    px, py = poisoned(x, y, forget, 2)
    for k in range(2):
        for i in range(N):
            chosen = i in forget[k].tolist()
            assert torch.equal(px[k, i], triggered(x[k, i]) if chosen else x[k, i])
            assert py[k, i] == (2 if chosen else y[k, i])


def test_accuracy_is_that_of_the_other_classes():
    said = torch.eye(3)[[0, 1, 0, 2]][None]  # classes named: 0, 1, 0, 2
    assert corrected_accuracy(said, torch.tensor([0, 1, 1, 2]), 0) == pytest.approx([2 / 3])
    with pytest.raises(ValueError, match=r"^labels: got 0 alone"):
        corrected_accuracy(said, torch.zeros(4, dtype=torch.int64), 0)


# Worst-case forget sets.


def test_the_projection_is_the_nearest_point_of_the_capped_simplex():
    # clamp(w - 0.4, 0, 1) sums to 1 + 0.6 + 0.4 = 2.
    w = torch.tensor([[1.5, 1.0, 0.8, -0.2]], dtype=torch.float64)
    assert projected(w, 2)[0].tolist() == pytest.approx([1.0, 0.6, 0.4, 0.0])
    inside = torch.tensor([[0.5, 0.5, 0.7, 0.3]], dtype=torch.float64)
    assert projected(inside, 2)[0].tolist() == pytest.approx(inside[0].tolist())


def test_a_step_takes_weight_from_what_was_forgotten():
    w = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    losses = torch.tensor([[3.0, 0.0, 0.0, 3.0]], dtype=torch.float64)
    # w - step (loss + 2γw) = (0.4, 1, 0, -0.6) less γ's ten-thousandths; clamp(· + 0.3) sums to 0.7 + 1 + 0.3.
    assert updated(w, losses, 2, 0.2)[0].tolist() == pytest.approx([0.7, 1.0, 0.3, 0.0], abs=1e-3)
    assert largest(torch.tensor([[0.1, 0.5, 0.5, 0.9, 0.5]]), 3).tolist() == [[1, 2, 3]]


def test_the_hardest_set_is_what_the_lower_problem_leaves_known():
    # The lower problem reverses the sign of every weight of the head; then one long step takes the least losses.
    x, y, _ = data()
    models, asked = start([0, 1]), []
    before = [state(model) for model in models]

    def reverse(copies, forget):
        asked.append(forget)
        with torch.no_grad():
            for network in copies:
                network.head.weight.neg_()
                network.head.bias.neg_()

    found = worst_case(models, x, y, 5, reverse, seeds=[0, 1], rounds=1, step=1e6)
    losses = -(-logits(models, x)).log_softmax(-1).gather(2, y[..., None])[..., 0]
    assert found.tolist() == losses.topk(5, largest=False).indices.sort().values.tolist()
    assert all(torch.equal(a, state(b)) for a, b in zip(before, models, strict=True))
    assert asked[0].shape == (2, 5)
    assert not torch.equal(asked[0], found)


@pytest.mark.parametrize(("changes", "named"), [({"size": N - 1}, "size"), ({"rounds": 0}, "rounds")])
def test_a_search_that_cannot_be_is_refused(changes, named):
    x, y, _ = data(1)
    given = {"size": 3, "rounds": 1} | changes
    size = given.pop("size")
    with pytest.raises(ValueError, match=f"^{named}: got"):
        worst_case(start([0]), x, y, size, lambda copies, forget: None, seeds=[0], **given)
