"""Image sets in the hub's layout: Parquet shards with a struct column {bytes, path} and an integer label."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError


def shards(folder: Path, split: str) -> list[Path]:
    """The files `<split>-00000-of-00001.parquet`, … in order. ValueError naming the first that is missing."""
    found = sorted(folder.glob(f"{split}-*-of-*.parquet"))
    if not found:
        raise ValueError(f"{folder}: missing {split}-00000-of-00001.parquet")
    count = int(found[0].stem.rsplit("-", 1)[1])
    wanted = [folder / f"{split}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
    if missing := [file for file in wanted if file not in found]:
        raise ValueError(f"{missing[0]}: missing")
    return wanted


def read_images(files: list[Path], column: str, mode: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Decode every row of `files`.

    column: the name of the image column; mode: Pillow's, "L" or "RGB".
    Returns (images uint8 [N, H, W] or [N, H, W, 3], labels int64 [N], the encoding: "PNG" or "JPEG").
    Raises ValueError naming the file, and the row where there is one, for a file that is no Parquet (a
    truncated one among them), lacks a column, or holds an image that cannot be decoded or differs from
    the first in size or encoding. An altered byte inside an image is noticed where the file carries page
    checksums or the image's own format does (PNG); a JPEG may still decode.
    """
    images, labels, kinds = [], [], set()
    for file in files:
        try:
            table = pq.read_table(file, columns=[column, "label"], page_checksum_verification=True)
            cells, file_labels = table[column].combine_chunks().field("bytes"), table["label"].to_numpy()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ValueError(f"{file}: truncated, altered or of another layout: {error}") from error
        for row, cell in enumerate(cells):
            try:
                with Image.open(io.BytesIO(cell.as_py())) as image:
                    images.append(np.asarray(image.convert(mode)))
                    kinds.add((image.format, image.size))
            except (UnidentifiedImageError, OSError, TypeError) as error:
                raise ValueError(f"{file}: row {row}: not a readable image: {error}") from error
            if len(kinds) > 1:
                raise ValueError(f"{file}: row {row}: encodings and sizes differ: {sorted(kinds)}")
        labels.append(file_labels)
    if not images:
        raise ValueError(f"{files[0]}: no rows")
    return np.stack(images), np.concatenate(labels).astype(np.int64), next(iter(kinds))[0]
