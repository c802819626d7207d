"""Who competes in the JSCDS chapter: what is kept of each class."""

from IPython.display import Markdown

from palimpsest.chapters.jscds.experiment import Results
from palimpsest.chapters.shared.competitors import Competitor, table

COMPETITORS = {
    "full": Competitor("everything"),
    "full again": Competitor("everything, from another start: the floor of noise"),
    "random": Competitor("a random draw"),
    "random again": Competitor("another random draw: the floor of noise"),
    "jscds": Competitor("divergence from the class centre nearest to its mean", "zhang2024jscds"),
    "early jscds": Competitor("the same, from the scorer after a tenth of its epochs"),
    "proxy jscds": Competitor("the same, from a scorer of half the width"),
    "L2 near-mean": Competitor("the same rule with the Euclidean distance"),
    "successor code": Competitor(
        "the largest divergences, as a successor's code chooses, by a head that it leaves untrained"
    ),
    "farthest, trained head": Competitor("the successor's rule with the trained head"),
    "moderate": Competitor("distance from the class centre nearest to its median", "xia2023moderate"),
    "herding": Competitor("a greedy choice whose mean follows the class mean", "welling2009herding"),
    "k-center": Competitor("a greedy choice that leaves no sample far from a chosen one", "sener2018coreset"),
    "el2n": Competitor("the largest early errors of the predicted probabilities", "paul2021diet"),
    "grand": Competitor("the largest early gradients", "paul2021diet"),
    "forgetting": Competitor("most often learnt and forgotten again in training", "toneva2019forgetting"),
    "ccs": Competitor("the hardest cut off, then even coverage of difficulty", "zheng2023ccs"),
    "low-loss": Competitor("the smallest losses, the easy ones", "han2018coteaching"),
    "cleanlab": Competitor("the least likely mislabelled, by confident learning", "northcutt2021confident"),
}


def who(results: Results) -> Markdown:
    """The rules of selection that were run."""
    return table(COMPETITORS, results.rows.method)
