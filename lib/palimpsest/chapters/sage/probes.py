"""Is tree decoding exact? All policies against plain decoding, in float64, in three families of models."""

from functools import cache

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from palimpsest import decoding
from palimpsest.chapters.sage.profiles import PROFILES
from palimpsest.chapters.sage.requests import greedy, pictures
from palimpsest.chapters.sage.shipped import SHIPPED
from palimpsest.chapters.shared.profiles import choose
from palimpsest.training import seeds

FAMILIES = {"vision": "LLaVA-OneVision, trained", "text": "Llama, trained", "random": "Qwen2.5-VL, random weights"}
TRAINED = {"vision": ("target", "drafter"), "text": ("text-target", "text-drafter")}
"""Of the trained families, target and drafter among the shipped models."""
POLICIES = ("autoregressive", "chain", "entropy_chain", "static", "sage", "eagle2", "opt_tree")
"""Of `decoding.policies`, each with its own defaults."""
TEMPERATURES = (0.0, 1.0)
REQUESTS = 1
VOCABULARY = 60
"""Of the random family."""


def exactness(profile: str, seed: int, family: str, policy: str, temperature: float) -> list[dict]:
    """One row per request: whether the policy's tokens are plain decoding's ("same"), and both counts of forwards.

    Plain decoding is transformers' `generate` at temperature 0; above it, where noise must be shared, it is the
    policy "autoregressive".
    """
    target, drafter, asked = _random(seed) if family == "random" else _trained(profile, seed, family)
    most = min(choose(profile, PROFILES).most, 48)
    rows = []
    for one in asked:
        options = {"max_new_tokens": most, "temperature": temperature, "seed": seed}
        plain = decoding.generate(target, None, one, policy="autoregressive", **options)
        tokens = plain.tokens
        if temperature == 0:
            tokens = greedy(target.model, one, most)
        tree = decoding.generate(target, decoding.ModelDrafter(drafter), one, policy=policy, **options)
        rows.append(
            {
                "family": FAMILIES[family],
                "policy": policy,
                "temperature": temperature,
                "same": tree.tokens == tokens,
                "tokens": len(tokens),
                "target forwards": tree.stats.target_forwards,
                "plain forwards": plain.stats.target_forwards,
            }
        )
    return rows


def jobs(profile: str) -> list[dict]:
    """All families, policies and temperatures, on the first seed of the evaluation."""
    seed = choose(profile, PROFILES).seeds[0]
    return [
        {"profile": profile, "seed": seed, "family": family, "policy": policy, "temperature": temperature}
        for family in FAMILIES
        for policy in POLICIES
        for temperature in TEMPERATURES
    ]


def _trained(profile, seed, family):
    names = TRAINED[family]
    target, drafter = (SHIPPED.decoder(name, torch.float64) for name in names)
    asked = SHIPPED.inputs(names[0], pictures("evaluation", choose(profile, PROFILES).seeds.index(seed), REQUESTS))
    return target, drafter, [_double(one) for one in asked]


def _double(one):
    return {key: value.double() if value.is_floating_point() else value for key, value in one.items()}


def small_parts() -> tuple[dict, dict]:
    """Settings of a small Qwen2.5-VL: of its language model and of its vision tower. Made anew, because transformers
    writes into what it is given."""
    language = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "patch_size": 2,
        "in_channels": 1,
        "window_size": 8,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }
    return language, vision


@cache
def _random(seed):
    """A Qwen2.5-VL target with a picture of 16 visual tokens in its prompt, and a drafter that often agrees with it:
    the target with noise on its weights."""
    language, vision = small_parts()
    image, generator = VOCABULARY - 1, seeds.generator(seed, "pair")
    config = Qwen2_5_VLConfig(
        vision_config=vision, text_config=language, image_token_id=image, video_token_id=VOCABULARY - 2
    )
    pair = []
    for noise in (0.0, 0.02):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seeds.derived(seed, "weights"))
            model = Qwen2_5_VLForConditionalGeneration(config).eval().double()
        for parameter in model.parameters():
            if parameter.ndim == 2:  # wider weights, so that the argmax varies
                parameter.data.mul_(3)
            change = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.add_(noise * change)
        pair.append(decoding.adapt(model))
    asked = []
    for _ in range(REQUESTS):
        words = torch.randint(1, VOCABULARY - 2, (2, 5), generator=generator).tolist()
        ids = torch.tensor([[*words[0], *[image] * 16, *words[1]]])
        pixels = torch.randn(64, 8, generator=generator, dtype=torch.float64)
        kinds = (ids == image).int()
        asked.append(
            {
                "input_ids": ids,
                "pixel_values": pixels,
                "image_grid_thw": torch.tensor([[1, 8, 8]]),
                "mm_token_type_ids": kinds,
            }
        )
    return *pair, asked
