"""The models of the shipped decoding pairs: LLaVA-OneVision-class and Llama-class, of a size two cores can train.

"target", "drafter" and "distilled-drafter" look at a 28 × 28 grey picture (Li et al. 2024, "LLaVA-OneVision", arXiv
2408.03326, section 3: vision tower, two-layer projector, language model); "text-target" and "text-drafter" get the
same facts as words. `palimpsest.build.pair` trained all of them on the shipped Fashion-MNIST. They share one
tokenizer, so every target takes every drafter of its kind.

The sizes are ours. The targets are deep and narrow: on a CPU a forward pass of such a model costs by the layer and
hardly by the token, as a large model's does on an accelerator, so that verifying many tokens at once can pay.
"""

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)

SPECIAL = ("<pad>", "<end>", "<image>", "<video>", "<user>", "<assistant>")
"""The first entries of the vocabulary; a token's id is its place here."""
PAD, END, IMAGE, VIDEO = range(4)
VOCABULARY = 768
CONTEXT = 512
"""Positions a model was built for; the longest training sequence has about 200 tokens."""

SIDE = 28
"""Pixels of a picture, each way: Fashion-MNIST's."""
PATCH = 4
VISUAL_TOKENS = (SIDE // PATCH) ** 2 + 1
"""Rows of the prompt that a picture takes: one per patch, and the class's closing newline vector."""
NO_CROPS = [[0, 0]]
"""The any-resolution grid of LLaVA-OneVision with no crop beside the whole picture: at 28 × 28 a crop would show the
same pixels at the same resolution a second time."""

# width, width of the feed-forward layer, layers, heads, key-value heads
LANGUAGE = {
    "target": (128, 448, 16, 4, 2),
    "drafter": (128, 384, 2, 4, 2),
    "distilled-drafter": (128, 384, 2, 4, 2),
    "text-target": (128, 448, 12, 4, 2),
    "text-drafter": (96, 288, 2, 3, 1),
}
# width, width of the feed-forward layer, layers, heads
VISION = {"target": (96, 384, 4, 4), "drafter": (64, 256, 3, 4), "distilled-drafter": (64, 256, 3, 4)}


def build(name: str, *, seed: int) -> PreTrainedModel:
    """The model `name` (a key of `LANGUAGE`) with fresh fp32 weights drawn from `seed`, in training mode.

    The global generator is restored afterwards. Raises ValueError for an unknown name.
    """
    if name not in LANGUAGE:
        raise ValueError(f"name: got {name!r}, want one of {list(LANGUAGE)}")
    width, inner, layers, heads, key_value_heads = LANGUAGE[name]
    language = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "eos_token_id": END,
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs as well
        if name not in VISION:
            return LlamaForCausalLM(LlamaConfig(**language)).train()
        width, inner, layers, heads = VISION[name]
        vision = SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_channels=1,
            image_size=SIDE,
            patch_size=PATCH,
            hidden_act="relu",  # the tanh of the usual GELU takes a sixth of a training step on a CPU
            vision_use_head=False,
        )
        config = LlavaOnevisionConfig(
            vision_config=vision,
            text_config=Qwen2Config(**language),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=NO_CROPS,
            tie_word_embeddings=True,
        )
        return LlavaOnevisionForConditionalGeneration(config).train()
