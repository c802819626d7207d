"""cleanlab's label-quality ranking, from its own library: the peer for finding wrong labels."""

import torch
from torch import Tensor

from palimpsest.selection.registry import Context, method


@method(
    "cleanlab",
    source="Northcutt, Jiang, Chuang 2021, arXiv:1911.00068; package cleanlab",
    needs=("out_of_sample_probs",),
)
def cleanlab(ctx: Context) -> Tensor:
    """Keep, per class, the samples whose given label the library trusts most.

    Theirs: `cleanlab.rank.get_label_quality_scores` at its default, self-confidence: the out-of-sample
    probability of the given label. Ours: keeping a budget by that rank; the library's own use is to drop
    those it finds wrong, however many they are.

    Raises `ImportError` with the command that installs the library, if it is missing.
    """
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise ImportError(
            "method 'cleanlab' needs the package cleanlab: pip install 'palimpsest-companion[peers]'"
        ) from error
    quality = get_label_quality_scores(ctx.labels.cpu().numpy(), ctx.signals.out_of_sample_probs.cpu().numpy())
    return ctx.keep_smallest(-torch.from_numpy(quality).to(ctx.labels.device))
