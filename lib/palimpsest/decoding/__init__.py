"""Lossless tree decoding: a drafter proposes a tree of tokens, the target verifies it in one forward.

`generate` is the one entrance; `policies` are the rules that shape the tree, by name.
"""

from palimpsest.decoding.drafters import Drafter, ModelDrafter
from palimpsest.decoding.generate import generate, generate_batch
from palimpsest.decoding.hook import TreeDecoding
from palimpsest.decoding.models import ADAPTERS, Decoder, adapt
from palimpsest.decoding.policies import POLICIES as policies
from palimpsest.decoding.policies.policy import Policy
from palimpsest.decoding.stats import Output, Round, Stats
from palimpsest.decoding.training_free import PromptLookup, TokenRecycling
from palimpsest.decoding.tree import SPECVLM, TOKEN_RECYCLING, Tree
from palimpsest.decoding.vision import LlavaOnevisionDecoder, Qwen25VLDecoder
from palimpsest.decoding.visual_pruning import PrunedDrafter

__all__ = [
    "ADAPTERS",
    "SPECVLM",
    "TOKEN_RECYCLING",
    "Decoder",
    "Drafter",
    "LlavaOnevisionDecoder",
    "ModelDrafter",
    "Output",
    "Policy",
    "PromptLookup",
    "PrunedDrafter",
    "Qwen25VLDecoder",
    "Round",
    "Stats",
    "TokenRecycling",
    "Tree",
    "TreeDecoding",
    "adapt",
    "generate",
    "generate_batch",
    "policies",
]
