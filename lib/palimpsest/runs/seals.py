"""Files that say themselves whether they are as they were written."""

import hashlib
import json
from pathlib import Path

from .files import write_atomic

REFUSED = "{path}: altered or cut short; remove it, and what it holds is computed anew"


def digest(content: bytes) -> bytes:
    """sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest().encode()


def write(path: Path, content: bytes) -> None:
    """Write `content` with its sha256 behind it, whole or not at all."""
    write_atomic(path, lambda file: Path(file).write_bytes(content + digest(content)))


def read(path: Path) -> bytes:
    """What `write` was given. ValueError, naming the file, where a byte of it is another."""
    content = path.read_bytes()
    content, seal = content[:-64], content[-64:]
    if seal != digest(content):
        raise ValueError(REFUSED.format(path=path))
    return content


def write_json(path: Path, value: dict) -> None:
    """Write `value`, which survives JSON, with the sha256 of its text as one more field."""
    text = _sealed(value)
    write_atomic(path, lambda file: Path(file).write_text(text))


def read_json(path: Path) -> dict:
    """What `write_json` was given. ValueError as `read`."""
    try:
        text = path.read_text()
        value = json.loads(text)
        del value["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(REFUSED.format(path=path)) from error
    if _sealed(value) != text:  # another blank is another text
        raise ValueError(REFUSED.format(path=path))
    return value


def _sealed(value: dict) -> str:
    return json.dumps({**value, "sha256": digest(json.dumps(value).encode()).decode()})
