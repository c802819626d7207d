"""Draw the shipped Fashion-MNIST subset: `python -m palimpsest.build.fashion_mnist --source FOLDER`.

FOLDER holds either the four idx files as Debian's `dataset-fashion-mnist` installs them, or the Parquet
files of the hub's `zalando-datasets/fashion_mnist`. Both hold the same images in the same order; the
checksums below refuse anything else, so both give the same subset. Test images are drawn from the source's
test images, training images from its training images.

Why a PNG mosaic sorted by class: 12,000 images take 4.7 MB and any viewer opens it. In source order PNG and
lossless WebP take 4.9 and 4.7 MB, gzip of the raw bytes 5.2 MB; xz takes 4.5 MB, but nobody can look at it
and it decodes several times slower.
"""

import gzip
import hashlib
import io
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
import PIL
import torch
import typer
from PIL import Image

from palimpsest.data import manifest
from palimpsest.data.fashion_mnist import FOLDER, SIDE, to_mosaic
from palimpsest.data.labels import class_balanced_draw
from palimpsest.data.parquet import read_images, shards
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic

SEED = 1708_07747
"""The paper's arXiv number."""
PER_CLASS = {"train": 1200, "test": 400}
IDX_STEM = {"train": "train", "test": "t10k"}
SOURCE_SHA256 = {
    "train": "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
    "test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
}
"""Of each split's pixels followed by its labels, one byte each."""
MADE_BY = f"python -m palimpsest.build.fashion_mnist, Pillow {PIL.__version__}"
ORIGIN = "Fashion-MNIST, Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747"


def read_source(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, 28, 28], labels int64 [N]) of split "train" or "test" in either layout.

    Raises ValueError naming what is missing or unreadable.
    """
    if list(folder.glob("*.parquet")):
        images, labels, _ = read_images(shards(folder, split), column="image", mode="L")
        return images, labels
    images = _read_idx(folder / f"{IDX_STEM[split]}-images-idx3-ubyte.gz", header=16)
    labels = _read_idx(folder / f"{IDX_STEM[split]}-labels-idx1-ubyte.gz", header=8)
    return images.reshape(-1, SIDE, SIDE), labels.astype(np.int64)


def draw(source: Path, split: str) -> tuple[np.ndarray, bytes]:
    """The subset of one split, class after class: (mosaic uint8 [28 N / 100, 2800], its CSV table).

    Raises ValueError when the source's images or labels are not Fashion-MNIST's.
    """
    images, labels = read_source(source, split)
    digest = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    if digest != SOURCE_SHA256[split]:
        raise ValueError(
            f"{source}: its {split} images and labels are not Fashion-MNIST's: their SHA-256 is {digest}"
        )
    generator = torch.Generator().manual_seed(SEED)
    drawn = class_balanced_draw(torch.from_numpy(labels), PER_CLASS[split], generator).numpy()
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    rows = "".join(f"{index},{labels[index]}\n" for index in by_class)
    return to_mosaic(images[by_class]), f"source_index,label\n{rows}".encode()


def build(source: Path, root: Path) -> None:
    """Write the mosaics and tables under `root` and list them in its manifest.

    The same source, Pillow and zlib give the same bytes; other versions may compress differently, but to
    the same pixels. Raises ValueError, and writes nothing, when the source is not Fashion-MNIST.
    """
    content = {}
    for split in PER_CLASS:
        mosaic, content[f"{split}.csv"] = draw(source, split)
        png = io.BytesIO()
        Image.fromarray(mosaic).save(png, "PNG", optimize=True)
        content[f"{split}.png"] = png.getvalue()
    files = {root / FOLDER / name: data for name, data in content.items()}
    for file, data in files.items():
        write_atomic(file, lambda temporary, data=data: Path(temporary).write_bytes(data))
    manifest.update(files, licence="MIT", origin=ORIGIN, made_by=MADE_BY, root=root)


def _read_idx(file, header):
    if not file.is_file():
        raise ValueError(f"{file}: missing; want the idx files of dataset-fashion-mnist or the hub's Parquet files")
    try:
        return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8)[header:]
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{file}: truncated or altered: {error}") from error


def main(source: Annotated[Path, typer.Option(help="Folder with the idx .gz or the Parquet files.")]):
    try:
        build(source, paths.DATA)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(main)
