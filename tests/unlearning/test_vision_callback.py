"""Unlearning as the last step of a training by transformers' Trainer."""

import copy

import pytest
import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from palimpsest.unlearning.vision import drop_in
from palimpsest.unlearning.vision.callback import Forget

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
SETTINGS = {"method": "SalUn", "lr": 0.05, "epochs": 1, "batch_size": 8}
FORGET = [1, 4, 9]


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield ViTForImageClassification(ViTConfig(**SIZES, image_size=8, patch_size=4, num_labels=3))


def trained(model, folder, *callbacks):
    pictures = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    data = [{"pixel_values": picture, "labels": place % 3} for place, picture in enumerate(pictures)]
    quiet = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(str(folder), max_steps=2, learning_rate=1e-2, use_cpu=True, **quiet)
    Trainer(model, arguments, train_dataset=data, callbacks=list(callbacks)).train()
    return data


def test_a_training_ends_in_the_unlearning_of_a_call_after_it(model, tmp_path):
    plain, forgetting = copy.deepcopy(model), Forget(FORGET, **SETTINGS)
    before = copy.deepcopy(model.state_dict())
    assert forgetting.report is None
    trained(model, tmp_path, forgetting)
    data = trained(plain, tmp_path)
    assert not torch.equal(plain.classifier.weight, before["classifier.weight"])
    assert not torch.equal(plain.classifier.weight, model.classifier.weight)
    expected = drop_in.unlearn(plain, data, FORGET, **SETTINGS)
    assert (forgetting.report.before, forgetting.report.after) == (expected.before, expected.after)
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_what_cannot_be_meant_is_refused_by_the_words_of_the_method(model, tmp_path):
    with pytest.raises(ValueError, match=r"forget: got indices in 1 .* 16, want below 16"):
        trained(model, tmp_path, Forget([1, 16], **SETTINGS))
