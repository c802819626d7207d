"""Image classifiers of transformers: checked, and then unlearned with, as they come."""

import json

import pytest
import torch
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)
from typer.testing import CliRunner

from palimpsest.commands.main import app
from palimpsest.unlearning.vision import METHODS, unlearn

SIDE, CLASSES = 16, 3
MODELS = {
    "ViT": lambda: ViTForImageClassification(
        ViTConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
            patch_size=8, num_labels=CLASSES,
        )
    ),
    "ResNet": lambda: ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=CLASSES,
        )
    ),
}  # fmt: skip

NO_FEATURES = "LAF (models: LAF needs networks with `features`, got one without)"
REFUSED = {
    "ViT": [
        "Bad Teacher (models: got layer 'vit.embeddings' without reset_parameters, want one for Bad Teacher)",
        NO_FEATURES,
    ],
    "ResNet": [NO_FEATURES],
}


def made(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name]().eval()


@pytest.mark.parametrize("name", MODELS)
def test_a_classifier_is_checked_with_every_method(tmp_path, name):
    made(name).save_pretrained(tmp_path)
    done = CliRunner().invoke(app, ["check", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (use,) = found["uses"]
    assert use["why"] is None
    assert found["facts"]["classes"] == CLASSES
    possible, *refused = use["detail"].split(", but not ")
    assert refused == REFUSED[name]
    lacking = {why.partition(" (")[0] for why in refused}
    assert possible == "methods: " + ", ".join(method for method in METHODS if method not in lacking)


@pytest.mark.parametrize("name", MODELS)
def test_a_classifier_of_transformers_forgets_as_it_comes(name):
    generator, model = torch.Generator().manual_seed(1), made(name)
    images = torch.randn(24, 3, SIDE, SIDE, generator=generator)
    labels = torch.arange(24) % CLASSES
    forget = torch.arange(0, 24, 4)

    def loss(rows):
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(model(images[rows]).logits, labels[rows]))

    before = loss(forget)
    unlearn([model], images, labels, forget, "gradient ascent", lr=0.02, epochs=3, batch_size=6)
    assert loss(forget) > before
    assert not model.training


def test_a_model_of_another_kind_is_refused(tmp_path):
    T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path)
    done = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert done.exit_code == 1
    assert "a t5; want a causal language model or an image classifier of transformers" in done.stderr
