"""Where does the forgetting sit? Heads exchanged, and probes of the features, network by network."""

import copy

from torch import Tensor, nn

from palimpsest import training
from palimpsest.chapters.unlearning_quantised.arms import HEADLINE, METHODS, REFERENCES
from palimpsest.chapters.unlearning_quantised.cohort import Cohort, Problem
from palimpsest.chapters.unlearning_quantised.experiment import forget
from palimpsest.metrics.distances import linear_cka
from palimpsest.metrics.representation import PROBES

SEEN = 400
"""Images that no network was trained on: so many teach the probes, and so many others give the similarity."""


def exchanged(bodies: list[nn.Module], heads: list[nn.Module]) -> list[nn.Module]:
    """Copies of `bodies` with the last layers of `heads`."""
    copies = [copy.deepcopy(body) for body in bodies]
    for network, other in zip(copies, heads, strict=True):
        network.head = copy.deepcopy(other.head)
    return copies


def knowledge(
    models: list[nn.Module],
    originals: list[nn.Module],
    retrained: list[nn.Module],
    problem: Problem,
    asked: tuple[Tensor, Tensor],
) -> list[dict[str, float]]:
    """Shares in [0, 1], one row per network, of the images `asked`, x [K, n, C, H, W] with y [K, n]:

    right: called by their label. head: by the original's body under this network's head, what the last layer's change
    alone does; body: by this network's body under the original's head. linear, nearest: by probes of the features,
    which learned from validation images. cka_original, cka_retrain: similarity of the features of test images.
    """
    x, y = asked
    (seen, labels), tests = (part[:SEEN] for part in problem.validation), problem.test[0][:SEEN]

    def right(networks):
        return (training.logits(networks, x).argmax(2) == y).double().mean(1).tolist()

    parts = {
        "right": right(models),
        "head": right(exchanged(originals, models)),
        "body": right(exchanged(models, originals)),
    }
    features, known = (training.predict(models, images)[0].cpu() for images in (x, seen))
    alike = [training.predict(networks, tests)[0].cpu() for networks in (models, originals, retrained)]
    labels = labels.cpu()
    for name, probe in zip(("linear", "nearest"), PROBES.values(), strict=True):
        parts[name] = [probe(known[k], labels, features[k], y[k].cpu()) for k in range(len(models))]
    for name, other in (("cka_original", alike[1]), ("cka_retrain", alike[2])):
        parts[name] = [linear_cka(own, its) for own, its in zip(alike[0], other, strict=True)]
    return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]


def probed(profile: str, method: str, values: list[float], only: list[int]) -> list[dict]:
    """`knowledge` of the forget samples in the networks of chapters 2 and 3 at their headline, one row per seed of
    `only`. `method`: one of their METHODS, at one of the `values` each, or of their REFERENCES, at none."""
    cohort = Cohort.named(profile, *HEADLINE, only)
    originals, retrained = cohort.load("original"), cohort.load("retrain")
    if method in REFERENCES:
        models = cohort.load(method)
    else:
        models, _ = forget(cohort, method, METHODS[method], range(len(only)), values, originals)
    whole = cohort.problem()
    rows = knowledge(models, originals, retrained, whole, whole.take(whole.forget))
    return [{"method": method, "seed": seed} | row for seed, row in zip(only, rows, strict=True)]
