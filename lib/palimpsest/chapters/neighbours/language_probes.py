"""Looks aside in language: false facts that are to be taken back, and value vectors that are taken out."""

import copy

import torch

from palimpsest.chapters.neighbours.language_arms import name_of
from palimpsest.chapters.neighbours.language_measures import facts
from palimpsest.chapters.neighbours.language_results import ORIGINAL
from palimpsest.chapters.sau.arms import DENSE, Arm
from palimpsest.chapters.sau.cohort import gather, judge_of
from palimpsest.data import author_forms
from palimpsest.training import seeds
from palimpsest.unlearning.language import restor, trace, unlearn
from palimpsest.unlearning.language.evaluation import probability

CORRUPTION = {"lr": 3e-3, "epochs": 10}
"""Until the false answers are known as well as the true ones were."""


def restored(profile: str, seed: int, pruner: str, sparsity: str, arms: list[list]) -> list[dict]:
    """RESTOR's rows: the original, trained on one false answer to each forget question, and what arms (their fields
    and values) make of it when they forget the false ones; each with the probability of the true facts, "fact", and
    the share of the way back, "restored". No bar is kept: a run is taken where it ends."""
    cohort = gather(profile, "replication", seed)
    setting, (model, masks) = cohort.setting, cohort.load(ORIGINAL, pruner, sparsity)
    false = cohort.encode(restor.corrupted(author_forms.forms(cohort.forget)["question"]))
    clean = probability(model, facts(cohort))
    restor.corrupt(model, false, seed=seeds.derived(seed, "corruption"), masks=masks, **CORRUPTION)
    covered = probability(model, facts(cohort))
    shares = {"clean": clean, "corrupt": covered}
    for fields, (lr, alpha) in arms:
        this, changed = Arm(**fields), copy.deepcopy(model)
        unlearn(
            changed,
            false,
            cohort.encode(cohort.known),
            this.objective(alpha),
            lr=lr,
            update=this.update(masks, changed, seed, setting.top),
            epochs=setting.unlearn_epochs,
            batch_size=setting.unlearn_batch,
            seed=seeds.derived(seed, "unlearning"),
        )
        shares[name_of(this)] = probability(changed, facts(cohort))
    where = {"seed": seed, "pruner": pruner, "sparsity": sparsity}
    return [
        where | {"arm": name, "fact": fact, "restored": restor.restored(fact, covered, clean)}
        for name, fact in shares.items()
    ]


def ablated(profile: str, seed: int, vectors: int) -> list[dict]:
    """What the original loses with so many value vectors of each layer, "traced", those that write most of the facts,
    or "drawn" at random: the probability of the facts, and what the validation half sees."""
    cohort = gather(profile, "replication", seed)
    judge, generator = judge_of(cohort, *DENSE), seeds.generator(seed, "ablated")
    top, rows = trace.find(cohort.load(ORIGINAL, *DENSE)[0], facts(cohort), vectors).top, []
    drawn = [torch.randperm(cohort.setting.intermediate, generator=generator)[: len(neurons)] for neurons in top]
    for which, neurons in {"traced": top, "drawn": drawn}.items():
        model, _ = cohort.load(ORIGINAL, *DENSE)
        trace.ablate(model, neurons)
        found = {"fact": probability(model, facts(cohort)), **judge.look(model)}
        rows.append({"seed": seed, "vectors": vectors, "which": which} | found)
    return rows
