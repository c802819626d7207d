"""Models of the reader's own that may be LoRA adapters: the base with the adapter merged, as one whole model."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .folders import one_line, reading, weights

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def base_of(argument: str, name: str) -> str:
    """What the adapter in the folder `name` was trained on, a folder or a hub identifier; `name` itself where that
    holds no adapter.

    A relative folder is looked for from where the command runs, and beside the adapter. Raises ValueError naming
    `argument` for an adapter that is no LoRA, names no base, or has no safetensors.
    """
    folder = Path(name)
    if not (folder / CONFIG).is_file():
        return name
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, base = settings["peft_type"], str(settings["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{argument}: {name} holds an adapter that does not say of which model") from error
    if kind != "LORA":
        raise ValueError(f"{argument}: {name} holds an adapter of kind {kind}, want LORA, which can be merged")
    if not (folder / WEIGHTS).is_file():  # peft would go on to a pickle
        raise ValueError(f"{argument}: {name} holds an adapter without {WEIGHTS}")
    beside = folder.parent / base
    return str(beside) if beside.is_dir() and not Path(base).is_dir() else base


def whole(kind: type, argument: str, name: str, dtype: torch.dtype | str) -> PreTrainedModel:
    """As `folders.weights`; of an adapter its base with the adapter merged, B·A·scale added to each weight."""
    base = base_of(argument, name)
    model = weights(kind, argument, base, dtype)
    if base == name:
        return model
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ValueError(f"{argument}: {name} holds an adapter, which needs peft: pip install peft") from error
    try:
        merged = PeftModel.from_pretrained(model, name).merge_and_unload(safe_merge=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{argument}: {name} does not fit {base}: {one_line(error)}") from error
    return merged.requires_grad_(True).eval()  # peft froze the base


def tokenizer_of(argument: str, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of `name`, or of the base where an adapter has none of its own."""
    base = base_of(argument, name)
    own = base != name and (Path(name) / "tokenizer_config.json").is_file()
    with reading(argument, base) as options:
        return AutoTokenizer.from_pretrained(name if own else base, **options)


def dtypes_of(argument: str, name: str) -> dict[str, torch.dtype]:
    """By tensor, float32 or the half precision in which the safetensors of the folder `name` (of an adapter, of its
    base) hold it; {} for a hub identifier."""
    halves, found = {"BF16": torch.bfloat16, "F16": torch.float16}, {}
    for file in sorted(Path(base_of(argument, name)).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (no mapping)
                found[key] = halves.get(tensors.get_slice(key).get_dtype(), torch.float32)
    return found
