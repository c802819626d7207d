"""Who competes in the SAU chapter: updates, losses and pruners."""

from IPython.display import Markdown

from palimpsest.chapters.sau.profiles import Setting
from palimpsest.chapters.sau.tables import UPDATES
from palimpsest.chapters.shared.competitors import Competitor, table

COMPETITORS = {
    "A": Competitor("forget in the dense model, with all weights; prune and recover afterwards"),
    "B": Competitor("prune, forget with all weights, prune again"),
    "C": Competitor("prune, then move survivors alone"),
    "C, again": Competitor("the same under another name, with batches and a search of its own: the floor of noise"),
    "D wanda": Competitor("masked, and survivors move farther by Wanda's score, for what was pruned", "wang2026sau"),
    "D saliency": Competitor("the same, shared out by the size of weight times gradient"),
    "D fisher": Competitor("the same, shared out by Fisher information of forget over retain answers"),
    "D wanda, by gradient": Competitor("the same, with λ of the gradient in the place of Adam's direction"),
    "E": Competitor("a dense model of which a random share moves: as few weights, nothing pruned"),
    "F": Competitor("masked, with every step as long as SAU's: length without direction"),
    "C, SGD": Competitor("masked, under SGD"),
    "D wanda, SGD": Competitor("SAU under SGD, where gradient and direction are one"),
    "A, frozen": Competitor("dense, embeddings and norms stay"),
    "C, frozen": Competitor("masked, embeddings and norms stay"),
    "NPO": Competitor("push forget answers below the given model's likelihood, ever less", "zhang2024npo"),
    "GradDiff": Competitor("raise the forget loss, lower the retain loss", "liu2022continual"),
    "SimNPO": Competitor("NPO without a reference model", "fan2024simnpo"),
    "RMU": Competitor("steer hidden states of forget answers to a random direction", "li2024wmdp"),
    "wanda": Competitor("prune by weight times norm of its input, row by row", "sun2024wanda"),
}


def who(setting: Setting) -> Markdown:
    """The updates, losses and pruners of a profile; updates by their letter and their name in figures."""
    arms = (*setting.arms, *setting.rivals, *setting.asides)
    run = {name for arm in arms for name in (arm.kind, arm.loss)} | {pruner for pruner, _ in setting.recipes}
    return table(COMPETITORS, run, {kind: f"{kind[0]}: {name}" for kind, name in UPDATES.items()})
