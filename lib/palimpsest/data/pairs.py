"""The shipped decoding pairs (`nets.vision_language`, trained by `build.pair`): models, tokenizer, pictures."""

from pathlib import Path

import torch
from PIL import Image
from transformers import (
    LlamaForCausalLM,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from palimpsest.nets.vision_language import SPECIAL, VISION, VISUAL_TOKENS

from . import manifest
from .fashion_mnist import MEAN, SIDE, STD

FOLDER = "vision_language"
FOLDERS = {
    "target": f"{FOLDER}/target",
    "drafter": f"{FOLDER}/drafter",
    "distilled-drafter": f"{FOLDER}/distilled/drafter",
    "text-target": f"{FOLDER}/text/target",
    "text-drafter": f"{FOLDER}/text/drafter",
}
"""By model, where under `data/` its files are."""


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


def _checked(name, root):
    """The folder of model `name`, every file of it compared with the manifest."""
    if name not in FOLDERS:
        raise ValueError(f"name: got {name!r}, want one of {list(FOLDERS)}")
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        checked = manifest.verify(f"{FOLDERS[name]}/{file}", root)
    return checked.parent
