"""The shipped decoding pairs: LLaVA-OneVision-class and Llama-class models of a size that two cores can train.

"target", "drafter" and "distilled-drafter" look at a 28 × 28 grey picture (Li et al. 2024, "LLaVA-OneVision", arXiv
2408.03326, section 3: vision tower, two-layer projector, language model); "text-target" and "text-drafter" get the
same facts as words. `palimpsest.data.build_pair` trained all of them on the shipped Fashion-MNIST. They share one
tokenizer, so every target takes every drafter of its kind.

The sizes are ours. The targets are deep and narrow: on a CPU a forward pass of such a model costs by the layer and
hardly by the token, as a large model's does on an accelerator, so that verifying many tokens at once can pay.
"""

from pathlib import Path

import torch
from PIL import Image
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from palimpsest.data import manifest
from palimpsest.data.fashion_mnist import MEAN, SIDE, STD

FOLDERS = {
    "target": "vision_language/target",
    "drafter": "vision_language/drafter",
    "distilled-drafter": "vision_language/distilled/drafter",
    "text-target": "vision_language/text/target",
    "text-drafter": "vision_language/text/drafter",
}
"""By model, where under `data/` its files are."""

SPECIAL = ("<pad>", "<end>", "<image>", "<video>", "<user>", "<assistant>")
"""The first entries of the vocabulary; a token's id is its place here."""
PAD, END, IMAGE, VIDEO = range(4)
VOCABULARY = 768
CONTEXT = 512
"""Positions a model was built for; the longest training sequence has about 200 tokens."""

PATCH = 4
VISUAL_TOKENS = (SIDE // PATCH) ** 2 + 1
"""Rows of the prompt that a picture takes: one a patch, and the class's closing newline vector."""
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
    """The model `name` (a key of `FOLDERS`) with fresh fp32 weights drawn from `seed`, in training mode.

    The global generator is restored afterwards. Raises ValueError for an unknown name.
    """
    _known(name)
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


def load(name: str, root: Path | None = None) -> PreTrainedModel:
    """The shipped model `name` (a key of `FOLDERS`), fp32 on the CPU, in evaluation mode. Its file stores fp16.

    `root` is the folder that holds MANIFEST, by default `data/`. Raises ValueError for an unknown name, and when a
    file is missing, truncated or altered.
    """
    folder = _checked(name, root)
    kind = LlavaOnevisionForConditionalGeneration if name in VISION else LlamaForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def processor(root: Path | None = None) -> "Processor":
    """The tokenizer and picture preparation that all models share. ValueError as `load`."""
    return Processor(PreTrainedTokenizerFast.from_pretrained(_checked("target", root), local_files_only=True))


class Processor:
    """Turns a question, and for the vision-language pair pictures, into what the models take."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer

    def __call__(self, prompt: str, images: torch.Tensor | Image.Image | None = None) -> dict[str, torch.Tensor]:
        """`prompt` asked of each picture: `input_ids` int64 [N, T], and with pictures `pixel_values` fp32
        [N, 1, 1, 28, 28] and `image_sizes` int64 [N, 2].

        images: uint8 [N, 28, 28], light on black as in Fashion-MNIST; or one PIL image of any size and mode, made
        grey and scaled to 28 × 28; or None for the text pair, which gives N = 1. Raises ValueError for an empty
        prompt, a special token written out in it, and pictures of another dtype or shape.
        """
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"prompt: got {prompt!r}, want a question or an instruction")
        written = [token for token in SPECIAL if token in prompt]
        if written:
            raise ValueError(f"prompt: got {prompt!r}, want text without {written[0]}: the processor adds it")
        seen = "<image>" * VISUAL_TOKENS if images is not None else ""
        ids = self.tokenizer.encode(f"<user>{seen}{prompt}<assistant>")
        if images is None:
            return {"input_ids": torch.tensor([ids])}
        pixels = pixel_values(images)
        return {
            "input_ids": torch.tensor(ids).expand(len(pixels), -1).contiguous(),
            "pixel_values": pixels,
            "image_sizes": torch.tensor([[SIDE, SIDE]]).expand(len(pixels), -1).contiguous(),
        }

    def decode(self, tokens: torch.Tensor | list[int]) -> str:
        """The text of generated tokens [T], special tokens left out."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)


def pixel_values(images: torch.Tensor | Image.Image) -> torch.Tensor:
    """fp32 [N, 1, 1, 28, 28] (picture, crop, channel, row, column) of pictures as `Processor` takes them."""
    if isinstance(images, Image.Image):
        grey = images.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        images = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).view(1, SIDE, SIDE)
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8 or images.shape[1:] != (SIDE, SIDE):
        got = f"{images.dtype} {list(images.shape)}" if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"images: got {got}, want uint8 [N, {SIDE}, {SIDE}] or one PIL image")
    return ((images.float() / 255 - MEAN[0]) / STD[0])[:, None, None]


def _known(name):
    if name not in FOLDERS:
        raise ValueError(f"name: got {name!r}, want one of {list(FOLDERS)}")


def _checked(name, root):
    """The folder of model `name`, every file of it compared with the manifest."""
    _known(name)
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        checked = manifest.verify(f"{FOLDERS[name]}/{file}", root)
    return checked.parent
