"""A drafter whose output layer knows the commonest tokens only."""

from collections.abc import Sequence

from .drafters import ModelDrafter


class CutVocabularyDrafter(ModelDrafter):
    """A model that reads the whole vocabulary and predicts a part of it.

    Stated by FR-Spec (Zhao et al. 2025, arXiv 2502.14856): a small drafter's time goes into its output layer, and
    most text is of few tokens; a token that is left out is never drafted, which costs acceptance and not the text.
    `Distribution.mass` is then a share of the part's probability.

    tokens: of each of the model's logits the target's token number.
    """

    def __init__(self, model, tokens: Sequence[int]):
        super().__init__(model)
        self._tokens = list(tokens)

    def _ranked(self, logits):
        return [one._replace(tokens=[self._tokens[place] for place in one.tokens]) for one in super()._ranked(logits)]
