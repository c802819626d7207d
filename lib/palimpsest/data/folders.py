"""Models of the reader's own, by folder or hub identifier: safetensors or nothing, and every weight."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file


def weights(kind: type, argument: str, name: str, dtype: torch.dtype | str) -> PreTrainedModel:
    """The model `name`, a folder or a hub identifier, as transformers' `kind` reads it: evaluation mode, on the CPU.

    dtype: "auto" is that of its file. Raises ValueError naming `argument` for what cannot be read, has no
    safetensors, is an adapter, or lacks weights.
    """
    with reading(argument, name) as options:
        # A pickle can run any code as it is loaded: safetensors or nothing.
        model, report = kind.from_pretrained(
            name, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
    if missing := sorted(report["missing_keys"]):  # transformers would go on with random weights
        raise ValueError(f"{argument}: {name} has no weights for {len(missing)} tensors, {missing[0]} among them")
    return model.eval()


@contextmanager
def reading(argument: str, name: str) -> Iterator[dict[str, bool]]:
    """The options of every `from_pretrained`; what goes wrong there becomes a ValueError that names the argument."""
    local = Path(name).is_dir()
    if not local and os.environ.get("PALIMPSEST_ALLOW_HUB") != "1":
        raise ValueError(f"{argument}: {name} is no folder; to take it from the hub, set PALIMPSEST_ALLOW_HUB=1")
    try:
        if find_adapter_config_file(name, local_files_only=local):
            # Of an adapter transformers would take a pickle, use_safetensors notwithstanding.
            raise OSError("it holds an adapter, want a whole model")
        yield {"local_files_only": local, "trust_remote_code": False}
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{argument}: {name} could not be read: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Its message, without line breaks."""
    return " ".join(str(error).split())
