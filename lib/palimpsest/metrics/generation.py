"""What a model writes, compared with what it should have written."""

import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby

import numpy as np

ALONE = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts without spaces between words, as their characters' names begin: each character is a word."""


def rouge_l_recall(references: Sequence[str], generated: Sequence[str]) -> np.ndarray:
    """ROUGE-L recall: the longest common subsequence of words, as a share of the reference's words.

    TOFU (Maini et al. 2024, section 2.2) takes recall, which does not punish a model for saying more. By
    `rouge_score` with its stemmer on, as the code released with TOFU: a word is a run of a-z and 0-9 after lower
    casing, and other Latin letters part words like all else. Ours: that code drops all other scripts; here a run of
    their letters and marks is a word, and in scripts without spaces each character.

    references, generated: N texts each. Returns float64 [N] in [0, 1]. Raises ValueError for lists of unequal
    length, empty lists, and a reference without a word.
    """
    return _recall("rougeL", references, generated)


def rouge_1_recall(references: Sequence[str], generated: Sequence[str]) -> np.ndarray:
    """ROUGE-1 recall: the share of the reference's words that are written, in any order, each as often as there.

    open-unlearning reports it beside ROUGE-L. Words, arguments, result and errors as in `rouge_l_recall`.
    """
    return _recall("rouge1", references, generated)


def _recall(kind, references, generated):
    from rouge_score.rouge_scorer import RougeScorer  # here, because it takes a second to import
    from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

    class Words(Tokenizer):
        def tokenize(self, text):
            return _words(text, DefaultTokenizer(use_stemmer=True).tokenize)

    if len(references) != len(generated) or len(references) == 0:
        raise ValueError(f"generated: got {len(generated)} texts, want one for each of {len(references)} references")
    words = Words()
    for row, reference in enumerate(references):
        if not words.tokenize(reference):
            raise ValueError(f"references: got {reference!r} in row {row}, want a text with a letter or a digit")
    scorer = RougeScorer([kind], tokenizer=words)
    pairs = zip(references, generated, strict=True)
    return np.array([scorer.score(reference, text)[kind].recall for reference, text in pairs])


def _words(text: str, latin: Callable[[str], list[str]]) -> list[str]:
    """The words of a text in any script; `latin` splits what is not in other scripts."""
    found = []
    for kind, characters in groupby(text, _kind):
        run = list(characters)
        if kind == "latin":
            found += latin("".join(run))
        else:
            found += run if kind == "alone" else ["".join(run).casefold()]
    return found


@cache
def _kind(character: str) -> str:
    """How a character makes words: "latin" (all that parts words among them), "alone", or in a run of "other"."""
    if character.isascii() or not unicodedata.category(character).startswith(("L", "M", "Nd")):
        return "latin"
    name = unicodedata.name(unicodedata.normalize("NFKD", character)[0], "")
    if name.startswith(("LATIN", "DIGIT", "COMBINING")):
        return "latin"
    return "alone" if name.startswith(ALONE) else "other"
