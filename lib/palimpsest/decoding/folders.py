"""Targets and drafters of the reader's own, and what prepares their inputs."""

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from palimpsest.data import adapters
from palimpsest.data.folders import reading
from palimpsest.nets import language
from palimpsest.nets.tokens import BARE


def model_of(argument: str, name: str) -> PreTrainedModel:
    """The model of a folder (of an adapter with it merged) or hub identifier: in the dtype of its file, on the GPU
    where there is one.

    Raises ValueError as `data.adapters.whole`.
    """
    base = adapters.base_of(argument, name)
    with reading(argument, base) as options:
        seeing = sees(AutoConfig.from_pretrained(base, **options))
    kind = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    return adapters.whole(kind, argument, name, "auto").to("cuda" if torch.cuda.is_available() else "cpu")


def prepared(
    name: str, prompt: str, picture: Image.Image | None
) -> tuple[dict[str, torch.Tensor], PreTrainedTokenizerBase]:
    """What the target `name` is given, and its tokenizer. The prompt goes through its chat template if it has one.

    Raises ValueError for a picture that the target cannot see or the prompt has no place for, and as `model_of`.
    """
    base = adapters.base_of("target", name)
    with reading("target", base) as options:
        seeing = sees(AutoConfig.from_pretrained(base, **options))
        processor = AutoProcessor.from_pretrained(base, **options) if seeing else None
    if processor is None:
        processor = adapters.tokenizer_of("target", name)
        if picture is not None:
            raise ValueError(f"image: got a picture, want none for {name}, which takes text only")
        template = None if processor.chat_template else BARE
        return {"input_ids": torch.tensor(language.prompt_ids(processor, [prompt], template))}, processor
    seen = [] if picture is None else [picture]
    if processor.chat_template:
        content = [*({"type": "image", "image": one} for one in seen), {"type": "text", "text": prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    elif seen and processor.image_token not in prompt:
        place = f"{processor.image_token} where the picture belongs, since {name} has no chat template"
        raise ValueError(f"prompt: got {prompt!r}, want {place}")
    else:
        inputs = processor(text=prompt, images=seen or None, return_tensors="pt")
    return dict(inputs), processor.tokenizer


def sees(config: PretrainedConfig) -> bool:
    """Whether models of this configuration take pictures."""
    return getattr(config, "vision_config", None) is not None
