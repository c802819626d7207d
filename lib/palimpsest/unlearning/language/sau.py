"""SAU: sparsity-aware unlearning (arXiv 2602.00577), re-implemented from the abstract."""

from dataclasses import dataclass, replace

from palimpsest.unlearning.language.npo import NPO
from palimpsest.unlearning.language.update import Update


@dataclass(frozen=True)
class SAU(NPO):
    """NPO whose updates go to surviving weights and are redistributed among them (`update.Update`).

    Stated by the paper: masking and redistribution, decoupled from the loss. Our reading: NPO as the loss; any other
    objective becomes sparsity-aware by `Update(masks, scaling="redistribute")`.
    """

    def setting(self, update: Update) -> Update:
        if update.masks is None:
            raise ValueError("update: got no masks, want those of the pruned model for SAU")
        if update.scaling == "boost":
            raise ValueError("update: got scaling 'boost', want 'redistribute' (or 'none', which SAU turns into it)")
        return replace(update, scaling="redistribute")
