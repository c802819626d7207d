"""ULD: unlearning from logit difference (Ji et al. 2024, arXiv 2406.08607)."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.checks import require_count, require_number
from palimpsest.nets.language import Encoded
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language.inference import Intervened, Intervention, Rival, hidden_of
from palimpsest.unlearning.language.method import Objective, answer_logits, token_mean_loss
from palimpsest.unlearning.language.task import Batch, Task
from palimpsest.unlearning.language.trainer import unlearn


@dataclass(frozen=True)
class Reversed(Objective):
    """The assistant's goals: the mean loss of a forget answer token, plus α times the mean Kullback–Leibler
    divergence from the uniform distribution to its prediction of a retain answer token. Both have a least value."""

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        return token_mean_loss(task, batch)

    def retain_loss(self, task: Task, batch: Batch) -> Tensor:
        logs = answer_logits(task, batch).log_softmax(1)
        return F.kl_div(logs, torch.full_like(logs, 1 / logs.shape[1]), reduction="batchmean")


@dataclass(frozen=True)
class ULD(Rival):
    """Logits are z − weight·z_a, z_a those of an assistant that was trained to remember the forget set and to know
    nothing of the retain set.

    Stated by the paper: the reversed goals, the difference. Its code: the assistant is the first 8 of 32 layers with
    the output head, trained by LoRA; weight 0.8 for TOFU; z_a is 0 for tokens whose probability under z is
    below a hundredth of the largest; the forget set is augmented by paraphrases, the retain set by wrong answers.
    Our reading: a quarter of the layers, at least one, all weights trained; no augmentation and no filter, so that
    the method sees what all others see and the difference stays one of logits.
    """

    weight: float = 0.8
    lr: float = 1e-3
    alpha: float = 1.0
    epochs: int = 10
    batch_size: int = 16

    def __post_init__(self):
        require_number("weight", self.weight)
        require_number("lr", self.lr)
        require_number("alpha", self.alpha)
        require_count("epochs", self.epochs)
        require_count("batch_size", self.batch_size)

    def apply(
        self, model: nn.Module, forget: Encoded, retain: Encoded, *, subjects=None, seed: int = 0
    ) -> Intervened:
        assistant = shortened(model)
        sizes = {"epochs": self.epochs, "batch_size": self.batch_size, "seed": seed}
        unlearn(assistant, forget, retain, Reversed(alpha=self.alpha), lr=self.lr, **sizes)
        return Intervened(Difference(model, assistant, self.weight), Joined(model, assistant))


def shortened(model: nn.Module) -> nn.Module:
    """A copy of its own of the first quarter of the layers, at least one, with embedding, last norm and head."""
    layers = len(decoder_layers(model))
    short = copy.deepcopy(model)
    decoder = short.get_decoder()
    decoder.layers = decoder.layers[: max(1, layers // 4)]
    short.config.num_hidden_layers = decoder.config.num_hidden_layers = len(decoder.layers)
    return short


class Difference(Intervention):
    """Hidden states (h, −share·weight·h_a) side by side: the logits of `Joined` are the difference of logits."""

    def __init__(self, model: nn.Module, assistant: nn.Module, weight: float):
        super().__init__(model)
        self.assistant, self.weight = assistant, weight

    def states(self, ids: Tensor) -> Tensor:
        own, reversed_ = (hidden_of(model, input_ids=ids) for model in (self.model, self.assistant))
        return torch.cat([own, -self.share * self.weight * reversed_], -1)


class Joined(nn.Module):
    """The two output embeddings side by side, [V, D + D_a]."""

    def __init__(self, model: nn.Module, assistant: nn.Module):
        super().__init__()
        self.heads = nn.ModuleList([model.get_output_embeddings(), assistant.get_output_embeddings()])

    @property
    def weight(self) -> Tensor:
        return torch.cat([head.weight for head in self.heads], 1)

    def forward(self, states: Tensor) -> Tensor:
        return F.linear(states, self.weight)
