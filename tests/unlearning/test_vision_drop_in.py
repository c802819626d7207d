"""`unlearning.vision.drop_in` with networks and data sets of other libraries' habits."""

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from transformers import ViTConfig, ViTForImageClassification

from palimpsest.data.loaders import tensors_of
from palimpsest.metrics import membership
from palimpsest.training.loop import TrainingDiverged
from palimpsest.unlearning.vision import trainer
from palimpsest.unlearning.vision.drop_in import Measured, measured, unlearn

CLASSES, SIDE, N, FORGET = 3, 8, 24, [1, 4, 9, 16]
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, 3, SIDE, SIDE, generator=GENERATOR), torch.arange(N) % CLASSES
X_TEST, Y_TEST = torch.randn(9, 3, SIDE, SIDE, generator=GENERATOR), torch.arange(9) % CLASSES
SETTINGS = {"lr": 0.01, "epochs": 2, "batch_size": 8}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        return nn.functional.relu(x + self.bn1(self.conv1(x)))


class LikeTimm(nn.Module):
    """A residual network with timm's names: a stem, stages, a pooling layer, `fc`."""

    def __init__(self):
        super().__init__()
        self.conv1, self.layer1 = nn.Conv2d(3, 4, 3), nn.Sequential(Block(4))
        self.global_pool, self.fc = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, CLASSES)

    def forward_features(self, x):
        return self.layer1(self.conv1(x))

    def forward(self, x):
        return self.fc(self.global_pool(self.forward_features(x)))


def vit():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = ViTConfig(**sizes, image_size=SIDE, patch_size=4, num_labels=CLASSES)
    return ViTForImageClassification(config)


def made(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


class Named(Dataset):
    """As a data set of transformers gives its samples."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        if not 0 <= index < N:
            raise IndexError(index)
        return {"pixel_values": X[index], "labels": int(Y[index])}


def weights(model):
    return torch.cat([v.detach().flatten().double() for v in model.state_dict().values()])


@pytest.mark.parametrize("make", [LikeTimm, vit])
def test_every_form_of_data_gives_the_bits_of_the_trainer(make):
    want = made(make)
    trainer.unlearn([want], X, Y, torch.tensor(FORGET), "NegGrad+", **SETTINGS)
    for data in (
        (X, Y),
        (X.numpy(), Y.numpy()),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), 5, shuffle=True),
        DataLoader(Named(), 4),
    ):
        model = made(make).eval()
        report = unlearn(model, data, np.array(FORGET), "NegGrad+", **SETTINGS)
        assert torch.equal(weights(model), weights(want))
        assert not model.training
    assert report.run.steps == 2 * 3
    assert (report.before.TA, report.after.MIA) == (None, None)


def test_the_report_is_what_is_counted_by_hand():
    """Logits are given by a table, so that each share can be counted."""

    class Table(nn.Module):
        def __init__(self, logits):
            super().__init__()
            self.logits = nn.Parameter(logits)

        def forward(self, x):
            return self.logits[x[:, 0, 0, 0].long()]

    x, y = torch.arange(6.0)[:, None, None, None], torch.tensor([0, 1, 0, 1, 0, 1])
    # Right on 0, 1, 2 and 4 and, of the test samples 6 to 9, whose classes are 0, 0, 1, 1, on 6, 8 and 9.
    named = torch.tensor([0, 1, 0, 0, 0, 0, 0, 1, 1, 1])
    size = torch.tensor([3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 0.2, 0.2, 0.2, 0.2])
    model = Table(nn.functional.one_hot(named, 2).float() * size[:, None])
    test = torch.arange(6.0, 10.0)[:, None, None, None], torch.tensor([0, 0, 1, 1])
    found = measured(model, x, y, torch.tensor([1, 3]), test, seed=0)
    own = model.logits.detach().double().softmax(1).numpy()
    members, others = own[[0, 2, 4, 5], [0, 0, 0, 1]], own[[6, 7, 8, 9], [0, 0, 1, 1]]
    attack = SVC(C=3, gamma="auto").fit(np.concatenate([members, others])[:, None], [1] * 4 + [0] * 4)
    mia = (attack.predict(own[[1, 3], [1, 1]][:, None]) == 0).mean()
    assert found == Measured(FA=1 / 2, RA=3 / 4, TA=3 / 4, MIA=mia)


def test_the_attack_sees_as_many_retain_as_test_samples(monkeypatch):
    seen = {}

    def attack(p_retain, y_retain, p_test, y_test, p_forget, y_forget):
        seen.update(retain=y_retain, test=y_test, forget=y_forget)
        return 0.5

    monkeypatch.setattr(membership, "svc_confidence", attack)
    assert measured(made(LikeTimm), X, Y, torch.tensor(FORGET), (X_TEST[:7], Y_TEST[:7]), 0).MIA == 0.5
    assert len(seen["retain"]) == len(seen["test"]) == 7
    assert torch.equal(seen["forget"], Y[FORGET])


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, stop_at):
    want = made(LikeTimm)
    first = unlearn(want, (X, Y), FORGET, "SalUn", test=(X_TEST, Y_TEST), **SETTINGS)
    model = made(LikeTimm)
    call = {"test": (X_TEST, Y_TEST), "checkpoint": str(tmp_path / "run"), **SETTINGS}
    stop_at(1, lambda: unlearn(model, (X, Y), FORGET, "SalUn", **call))
    model = made(LikeTimm)
    assert unlearn(model, (X, Y), FORGET, "SalUn", **call).after == first.after
    assert torch.equal(weights(model), weights(want))


class Stream(IterableDataset):
    def __iter__(self):
        yield X[0], 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": DataLoader(Stream())}, "train: got Stream, want a pair of tensors, or a data set with a length"),
        ({"train": []}, "train: got an empty data set"),
        ({"train": [(X[0], 0), (X[1, :, :4], 1)]}, "train: got images of 2 shapes, want one"),
        ({"train": [("a file", 0)] * 2}, "train: got an image str, want a tensor"),
        ({"train": [(X[0], "cat")] * 2}, "train: got the label 'cat' in sample 0, want a class number"),
        ({"train": [(X[0], 1.7)] * 2}, "train: got the label 1.7 in sample 0, want a class number"),
        ({"train": [{"pixels": X[0]}] * 2}, r"train: got a sample with \['pixels'\], want one of"),
        ({"train": [X[0]] * 3}, "train: got a sample Tensor, want a pair"),
        ({"train": ((X * 255).to(torch.uint8), Y)}, "train: got images of torch.uint8, want floats"),
        ({"train": (X, Y.float())}, "train: got labels torch.float32"),
        ({"test": (X_TEST, Y_TEST[:3])}, r"test: got labels torch.int64 \[3\], want integers \[9\]"),
        ({"forget": [0.5]}, "forget: got torch.float32"),
        ({"forget": [True, False]}, "forget: got torch.bool"),
        ({"forget": [1, N]}, f"forget: got indices in 1 .. {N}, want below {N}"),
        ({"forget": [[1, 2]]}, r"forget: got torch.int64 \[1, 2\], want indices \[F\]"),
        ({"forget": []}, "forget: got 0 indices, want 2 to 22 of 24 samples"),
        ({"train": (X[:, 0], Y)}, r"train: got images of shape \[24, 8, 8\], want"),
        ({"method": "salun"}, "method: got 'salun', want a Method or one of"),
    ],
)
def test_what_cannot_be_meant_is_named_and_nothing_moves(change, message):
    model = made(LikeTimm)
    arguments = {"train": (X, Y), "forget": FORGET, "method": "SalUn", "test": None} | change
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        unlearn(model, **arguments, **SETTINGS)
    assert torch.equal(weights(model), before)


def test_logits_that_are_not_numbers_are_no_class():
    model = made(LikeTimm)
    with torch.no_grad():
        model.fc.bias[2] = torch.nan
    with pytest.raises(ValueError, match="model: gives logits that are not finite for 24 of 24 samples of train"):
        unlearn(model, (X, Y), FORGET, **SETTINGS)


def test_a_run_that_diverges_says_so():
    with pytest.raises(TrainingDiverged, match="a smaller lr is needed"):
        unlearn(made(LikeTimm), (X, Y), FORGET, "gradient ascent", **SETTINGS | {"lr": 1e30})


def test_a_loader_is_read_in_the_order_of_its_data_set():
    x, y = tensors_of("train", DataLoader(TensorDataset(X, Y), 3, shuffle=True, drop_last=True))
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
