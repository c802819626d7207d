"""A small Llama, sequences and masks that the tests of unlearning in language models share."""

import copy
from functools import cache

import torch
from torch import Tensor, nn

from palimpsest.nets import language
from palimpsest.nets.language import IGNORED, Encoded
from palimpsest.pruning import Masks, random_masks
from palimpsest.unlearning.language import NPO, Objective, unlearn
from palimpsest.unlearning.language.task import Task

VOCABULARY, F, R = 60, 6, 8
SETTINGS = {"lr": 1e-3, "epochs": 2, "batch_size": 3}


def model(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    return copy.deepcopy(_model(seed)).to(dtype)


@cache
def _model(seed: int) -> nn.Module:
    """Weights larger than for training, so that no prediction is near uniform and every nonlinearity matters."""
    net = language.small_llama(VOCABULARY, seed, hidden=32, layers=2, heads=4, kv_heads=2, intermediate=48)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 2:
                p.mul_(8)
    return net.eval()


def sequences(rows: int, seed: int) -> Encoded:
    """Of 7 to 11 tokens, the last 2 to 6 of which are the answer, padded to 12."""
    generator = torch.Generator().manual_seed(seed)
    ids, labels = torch.zeros(rows, 12, dtype=torch.int64), torch.full((rows, 12), IGNORED)
    for row in range(rows):
        answer = 2 + (row + seed) % 5
        length = 5 + answer
        ids[row, :length] = torch.randint(3, VOCABULARY, (length,), generator=generator)
        labels[row, 4 : length - 1] = ids[row, 5:length]
    return Encoded(ids, labels)


def data() -> tuple[Encoded, Encoded, Encoded]:
    """(forget, retain, idk)."""
    return sequences(F, 1), sequences(R, 2), sequences(F, 3)


def sparse(net: nn.Module, share: float = 0.5) -> Masks:
    return random_masks(net, share, 7)


def task(net: nn.Module, masks: Masks | None = None, **changes) -> Task:
    settings = {"parameters": dict(net.named_parameters()), "kept": masks.kept if masks else {}, "batch_size": 3}
    return Task(net, *data(), **{**settings, **changes})


def begun(method: Objective, masks: Masks | None = None, **changes) -> Task:
    """A task after `begin`, its model moved a little from where it was then."""
    problem = task(model(), masks, **changes)
    method.begin(problem)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in problem.parameters.values():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype), alpha=0.02)
    return problem


def rows_logprobs(net: nn.Module, encoded: Encoded, rows: list[int]) -> list[Tensor]:
    """ln p of each answer token of each row, from logits: one sequence at a time, without padding."""
    found = []
    for row in rows:
        counted = (encoded.labels[row] != IGNORED).nonzero().flatten()
        ids = encoded.ids[row, : int(counted.max()) + 1]
        logs = net(input_ids=ids[None]).logits[0].log_softmax(-1)
        found.append(logs[counted, encoded.labels[row, counted]])
    return found


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def same_bits(a: Tensor, b: Tensor) -> bool:
    kind = {4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))


def first_step(update, method=None, **changes):
    """How far each parameter moves in one epoch of one batch without warm-up, and the report."""
    net, (forget, retain, idk) = model(), data()
    start = state(net)
    settings = {"lr": 1e-3, "epochs": 1, "batch_size": 8, "warmup_epochs": 0, "weight_decay": 0.0, "idk": idk}
    report = unlearn(net, forget, retain, method or NPO(), update=update, **{**settings, **changes})
    return {name: (p.detach() - start[name]) for name, p in net.named_parameters()}, report
