"""Models of the reader's own, by folder or hub identifier: their weights, and what prepares their inputs."""

import os
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.peft_utils import find_adapter_config_file

from palimpsest.nets import language


def model_of(argument: str, name: str) -> PreTrainedModel:
    """The model of a folder or hub identifier: in the dtype of its file, on the GPU where there is one.

    Raises ValueError naming `argument` for what cannot be read, has no safetensors, or lacks weights.
    """
    with _reading(argument, name) as options:
        if find_adapter_config_file(name, local_files_only=options["local_files_only"]):
            # Of an adapter transformers would take a pickle, use_safetensors notwithstanding.
            raise OSError("it holds an adapter, want a whole model")
        kind = AutoModelForImageTextToText if _sees(name, options) else AutoModelForCausalLM
        # A pickle can run any code as it is loaded: safetensors or nothing.
        model, report = kind.from_pretrained(
            name, dtype="auto", use_safetensors=True, output_loading_info=True, **options
        )
    if missing := sorted(report["missing_keys"]):  # transformers would go on with random weights
        raise ValueError(f"{argument}: {name} has no weights for {len(missing)} tensors, {missing[0]} among them")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def prepared(
    name: str, prompt: str, picture: Image.Image | None
) -> tuple[dict[str, torch.Tensor], PreTrainedTokenizerBase]:
    """What the target `name` is given, and its tokenizer. The prompt goes through its chat template if it has one.

    Raises ValueError for a picture that the target cannot see or the prompt has no place for, and as `model_of`.
    """
    with _reading("target", name) as options:
        sees = _sees(name, options)
        processor = (AutoProcessor if sees else AutoTokenizer).from_pretrained(name, **options)
    if not sees:
        if picture is not None:
            raise ValueError(f"image: got a picture, want none for {name}, which takes text only")
        template = None if processor.chat_template else "{question}"
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


def _sees(name, options):
    return getattr(AutoConfig.from_pretrained(name, **options), "vision_config", None) is not None


@contextmanager
def _reading(argument, name):
    """The options of every `from_pretrained`; what goes wrong there becomes a ValueError that names the argument."""
    local = Path(name).is_dir()
    if not local and os.environ.get("PALIMPSEST_ALLOW_HUB") != "1":
        raise ValueError(f"{argument}: {name} is no folder; to take it from the hub, set PALIMPSEST_ALLOW_HUB=1")
    try:
        yield {"local_files_only": local, "trust_remote_code": False}
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{argument}: {name} could not be read: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Its message, without line breaks."""
    return " ".join(str(error).split())
