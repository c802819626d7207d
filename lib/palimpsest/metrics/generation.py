"""What a model writes, compared with what it should have written."""

from collections.abc import Sequence

import numpy as np


def rouge_l_recall(references: Sequence[str], generated: Sequence[str]) -> np.ndarray:
    """ROUGE-L recall: the longest common subsequence of words, as a share of the reference's words.

    TOFU (Maini et al. 2024, section 2.2) takes recall, which does not punish a model for saying more. By
    `rouge_score` with its stemmer on, as the code released with TOFU: a word is a run of a-z and 0-9 after lower
    casing, and all else parts words.

    references, generated: N texts each. Returns float64 [N] in [0, 1]. Raises ValueError for lists of unequal
    length, empty lists, and a reference without a word.
    """
    from rouge_score.rouge_scorer import RougeScorer  # here, because it takes a second to import

    if len(references) != len(generated) or len(references) == 0:
        raise ValueError(f"generated: got {len(generated)} texts, want one for each of {len(references)} references")
    for row, reference in enumerate(references):
        if not any(c.isascii() and c.isalnum() for c in reference):
            raise ValueError(f"references: got {reference!r} in row {row}, want a text with a letter a-z or a digit")
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(references, generated, strict=True)
    return np.array([scorer.score(reference, text)["rougeL"].recall for reference, text in pairs])
