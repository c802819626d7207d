"""Pruning transformers decoders: magnitude, Wanda, SparseGPT, shares and N:M, and masks as objects of their own.

`prune` is the one entrance; `Masks` says which weights survived, and is stored beside the weights.
"""

from .masks import Masks
from .pattern import Pattern
from .registry import METHODS
from .report import report, valid_n_m
from .sequential import prune, random_masks

__all__ = ["METHODS", "Masks", "Pattern", "prune", "random_masks", "report", "valid_n_m"]
