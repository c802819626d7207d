"""Core sets from a model and a DataLoader."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import ViTConfig, ViTForImageClassification

from palimpsest import selection
from palimpsest.selection.from_model import seen, select_from

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(20, 3, 8, 8, generator=GENERATOR), torch.arange(20) % 2


def classifier():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))


def test_five_lines_select_what_features_and_labels_do():
    model = classifier().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    kept = select_from(model, DataLoader(TensorDataset(X, Y), 6), 0.3)
    model.eval()
    with torch.no_grad():
        features, logits = model[:4](X), model(X)
    assert torch.equal(kept, selection.select(features, Y, 0.3))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    model.train()
    signals = selection.Signals(logits=logits)
    small = select_from(model, DataLoader(TensorDataset(X, Y), 20), 0.3, "low_loss")
    assert torch.equal(small, selection.select(features, Y, 0.3, "low_loss", signals=signals))
    assert model.training


def test_the_features_are_what_enters_the_layer():
    model, loader = classifier().eval(), DataLoader(TensorDataset(X, Y), 6)
    with torch.no_grad():
        entered = model[0](X)
    features, _, labels = seen(model, loader, "1")
    assert torch.equal(features, entered)
    assert torch.equal(labels, Y)
    convolution = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    features, *_ = seen(convolution, loader, "0")
    assert torch.allclose(features, X.flatten(1, 2).mean(1))


def test_a_vision_transformer_is_seen_at_its_head():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=2)).eval()
    batch = [{"pixel_values": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    features, logits, _ = seen(model, DataLoader(batch, 7))
    with torch.no_grad():
        hidden = model.vit(X).last_hidden_state[:, 0]
        assert torch.allclose(features, hidden, atol=1e-6)
        assert torch.allclose(logits, model(X).logits, atol=1e-6)


@pytest.mark.parametrize(
    ("loader", "layer", "message"),
    [
        ((X, Y), None, "loader: got tuple, want a DataLoader"),
        (DataLoader(TensorDataset(X, Y), 5, shuffle=True), None, "loader: got one that shuffles"),
        (DataLoader(TensorDataset(X), 5), None, "loader: got batches list, want pairs"),
        (DataLoader(TensorDataset(X[:0], Y[:0]), 5), None, "loader: got no batch"),
        (DataLoader(TensorDataset(X, Y), 5), "head", "layer: got 'head', want one of"),
    ],
)
def test_what_cannot_be_meant_is_named(loader, layer, message):
    with pytest.raises(ValueError, match=message):
        seen(classifier(), loader, layer)


def test_a_model_without_a_linear_layer_is_told_to_name_one():
    model = nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten())
    with pytest.raises(ValueError, match=r"layer: got no nn\.Linear"):
        seen(model, DataLoader(TensorDataset(X, Y), 5))
