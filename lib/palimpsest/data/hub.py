"""A file of a data set on the hub: from a local mirror or, if the reader allows it, downloaded."""

import os
from pathlib import Path


def file(repository: str, name: str) -> Path:
    """Where `name` of the data set `repository` lies: under `PALIMPSEST_HUB`, which has the hub's own layout, or in
    the hub client's cache where `PALIMPSEST_ALLOW_HUB` is 1.

    Raises ValueError when neither is set, when the mirror lacks the file, or when the download fails.
    """
    if mirror := os.environ.get("PALIMPSEST_HUB"):
        path = Path(mirror) / repository / name
        if not path.is_file():
            raise ValueError(f"{path}: missing; PALIMPSEST_HUB must be a folder that holds {repository}/{name}")
        return path
    if os.environ.get("PALIMPSEST_ALLOW_HUB") == "1":
        return _download(repository, name)
    raise ValueError(
        f"{repository} is not shipped. Either set PALIMPSEST_HUB to a folder that holds {repository}/{name}, "
        "or set PALIMPSEST_ALLOW_HUB=1 to download it from the hub"
    )


def _download(repository, name):
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ValueError("PALIMPSEST_ALLOW_HUB=1 needs the package: pip install huggingface-hub") from error
    try:
        return Path(hf_hub_download(repository, name, repo_type="dataset"))
    # What the hub's client lets through ranges over three HTTP libraries; the reader needs one message.
    except Exception as error:
        raise ValueError(f"{name} of {repository} could not be downloaded from the hub: {error}") from error
