"""Drafters of less strength, made from the shipped one: its first layer alone, trained on for a few steps.

The one layer guesses half of the target's tokens. Each step of training on texts written by rule, as those that the
whole drafter learned from, brings it nearer. `STEPS` were chosen on tuning pictures, by the share guessed rightly
alone.
"""

import torch
from torch import nn
from transformers import LlavaOnevisionForConditionalGeneration

from palimpsest import runs
from palimpsest.build.pair_tasks import BETAS, WEIGHT_DECAY, CaptionTask
from palimpsest.data import fashion_mnist, pairs
from palimpsest.training import seeds
from palimpsest.training.loop import descend

STEPS = (5, 12, 40)
SEED = 2602
LR = 3e-4


def one_layer() -> LlavaOnevisionForConditionalGeneration:
    """The shipped drafter without its second layer."""
    model = pairs.load("drafter")
    language = model.model.language_model
    language.layers = nn.ModuleList([language.layers[0]])
    language.config.num_hidden_layers, language.config.layer_types = 1, language.config.layer_types[:1]
    return model


def weights() -> dict[str, torch.Tensor]:
    """Every parameter of `one_layer` after each of `STEPS`, as "STEPS/NAME"."""
    torch.set_num_threads(1)  # the number of threads decides the order of sums, and so the last bits
    model, found = one_layer().train(), {}
    task = CaptionTask(
        model,
        fashion_mnist.load().train,
        pairs.processor(),
        pictures=True,
        seed=seeds.derived(SEED, "captions"),
        shift=0,
    )
    parameters = dict(model.named_parameters())
    optimiser = torch.optim.AdamW(parameters.values(), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY)
    for step in range(1, max(STEPS) + 1):
        descend(task.loss(step), parameters, optimiser)
        if step in STEPS:
            found |= {f"{step}/{name}": value.detach().clone() for name, value in parameters.items()}
    return found


def load(steps: int) -> LlavaOnevisionForConditionalGeneration:
    """The drafter of one layer after `steps` steps, from the cache or trained now; fp32, in evaluation mode."""
    model, stored = one_layer(), runs.artifact(weights, {})
    model.load_state_dict({name: stored[f"{steps}/{name}"] for name, _ in model.named_parameters()}, strict=False)
    return model.eval()
