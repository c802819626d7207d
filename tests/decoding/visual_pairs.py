"""Small random vision-language models of both classes, prompts with pictures, and what plain decoding says."""

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from palimpsest.chapters.sage.probes import VOCABULARY, small_parts

IMAGE, VIDEO = VOCABULARY - 2, VOCABULARY - 1
"""The last two tokens. A random model may well say them; they are then words like others."""
FAMILIES = ("llava_onevision", "qwen2_5_vl")
TOKENS = {"llava_onevision": (10, 10), "qwen2_5_vl": (6, 16)}
"""Visual tokens of the prompt's two pictures: 3 × 3 patches and a newline each; 2 × 3 and 4 × 4 merged patches."""


def model(family, seed, *, dtype=torch.float32, layers=2, scale=3.0, context=256, attention="sdpa"):
    """A random model whose weights are large enough for its argmax to vary and to depend on the picture."""
    torch.manual_seed(seed)
    language, vision = small_parts()
    language |= {"num_hidden_layers": layers, "max_position_embeddings": context}
    if family == "llava_onevision":
        del language["rope_parameters"]
        vision = SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_channels=1,
            image_size=12,
            patch_size=4,
            vision_use_head=False,
        )
        config = LlavaOnevisionConfig(
            vision_config=vision,
            text_config=Qwen2Config(**language),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=[[0, 0]],
        )
        kind = LlavaOnevisionForConditionalGeneration
    else:
        config = Qwen2_5_VLConfig(
            vision_config=vision, text_config=language, image_token_id=IMAGE, video_token_id=VIDEO
        )
        kind = Qwen2_5_VLForConditionalGeneration
    config._attn_implementation = attention
    made = kind(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return made.to(dtype)


def prompt(family, seed=0, *, dtype=torch.float32, pictures=2):
    """What `generate` takes: text, a picture, text, another picture, text."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, IMAGE, (3,), generator=generator).tolist()
    for count in TOKENS[family][:pictures]:
        ids += [IMAGE] * count + torch.randint(1, IMAGE, (4,), generator=generator).tolist()
    inputs = {"input_ids": torch.tensor([ids])}
    if family == "llava_onevision":
        pixels = torch.randn(pictures, 1, 1, 12, 12, generator=generator, dtype=torch.float64)
        return inputs | {"pixel_values": pixels.to(dtype), "image_sizes": torch.tensor([[12, 12]] * pictures)}
    grid = torch.tensor([[1, 4, 6], [1, 8, 8]])[:pictures]
    pixels = torch.randn(int(grid.prod(-1).sum()), 8, generator=generator, dtype=torch.float64)
    kinds = (inputs["input_ids"] == IMAGE).int()
    return inputs | {"pixel_values": pixels.to(dtype), "image_grid_thw": grid, "mm_token_type_ids": kinds}


def longer(inputs, tokens):
    """The prompt with `tokens` behind it."""
    inputs = inputs | {"input_ids": torch.cat((inputs["input_ids"], torch.tensor([tokens], dtype=torch.int64)), 1)}
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    return inputs


@torch.no_grad()
def path_logits(model, inputs, tokens):
    """Logits [1 + len(tokens), V] after the prompt and each of `tokens` (words only): the bare model, no cache."""
    return model(**longer(inputs, tokens), use_cache=False).logits[0, -1 - len(tokens) :]


def plain(model, inputs, count):
    """transformers' own greedy continuation."""
    sequences = model.generate(**inputs, max_new_tokens=count, do_sample=False)
    return sequences[0, inputs["input_ids"].shape[1] :].tolist()
