"""Who competes in the SAGE chapter: policies that shape the tree, and drafters without a model."""

from IPython.display import Markdown

from palimpsest.chapters.sage.arms import WITHOUT_MODEL
from palimpsest.chapters.sage.claims import NAMES
from palimpsest.chapters.sage.results import Results
from palimpsest.chapters.shared.competitors import Competitor, table

COMPETITORS = {
    "autoregressive": Competitor("no draft: one forward of the target per token"),
    "chain": Competitor("one guess per level, always the same number", "leviathan2023speculative"),
    "specvlm": Competitor("a fixed tree of 25 nodes, with which the paper compares", "ji2025specvlm"),
    "static": Competitor("a fixed tree, fitted to measured acceptance by dynamic programming", "chen2024sequoia"),
    "eagle2": Competitor("draft more than is verified, keep the likeliest paths", "li2024eagle2"),
    "opt_tree": Competitor("grow while a level adds enough to the expected length", "wang2024opttree"),
    "sage": Competitor("deep and narrow after a sure draft, shallow and wide after an unsure one", "tong2026sage"),
    "recycling": Competitor(
        "drafts from what the target ranked high after the same token before", "luo2025recycling"
    ),
    "lookup": Competitor("drafts copied from where the last tokens stood before", "saxena2023lookup"),
}


def who(results: Results) -> Markdown:
    """The policies and the drafters without a model that were run."""
    arms = results.arms.values()
    run = {arm.policy for arm in arms} | {arm.drafter for arm in arms if arm.drafter in WITHOUT_MODEL}
    return table(COMPETITORS, run, NAMES | {"recycling": "Token Recycling", "lookup": "prompt lookup"})
