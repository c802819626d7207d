"""A look aside in language: value vectors that are taken out."""

import torch

from palimpsest.chapters.neighbours.language_measures import facts
from palimpsest.chapters.neighbours.language_results import ORIGINAL
from palimpsest.chapters.sau.arms import DENSE
from palimpsest.chapters.sau.cohort import gather, judge_of
from palimpsest.training import seeds
from palimpsest.unlearning.language import trace
from palimpsest.unlearning.language.evaluation import probability


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
