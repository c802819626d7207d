"""The state of a run that can be continued: one folder, one file of tensors, one of plain values.

Tensors are named "model.<name>" (what training changes), "<kind>.<name>" (what the optimiser keeps of the tensor of
that name: momentum_buffer, exp_avg, exp_avg_sq, step) and "extra.<name>" (whatever else the run keeps).
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from palimpsest.runs import seals
from palimpsest.runs.files import write_atomic


def digest(tensors: Iterable[Tensor]) -> str:
    """sha256 over shapes and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def pack(model: dict[str, Tensor], optimiser: torch.optim.Optimizer, extra: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a run under one name each. Of the optimiser its `state` is read; a tensor of the model that it
    has not moved yet has none."""
    moments = {
        f"{kind}.{name}": value
        for name, tensor in model.items()
        for kind, value in optimiser.state.get(tensor, {}).items()
    }
    named = {f"model.{name}": value for name, value in model.items()}
    return named | moments | {f"extra.{name}": value for name, value in extra.items()}


@torch.no_grad()
def restore(tensors: dict[str, Tensor], model: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
    """Put what `pack` gave back into `model` and `optimiser`, in place."""
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "model":
            model[name].copy_(value)
        elif kind != "extra":
            own = model[name]
            # In its tensor's layout in memory, as the optimiser had made it; a count of steps has a shape of its own.
            like = own if own.shape == value.shape else value
            moment = torch.empty_like(like, dtype=value.dtype, device=own.device)
            optimiser.state[own][kind] = moment.copy_(value)


def extras(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What was packed as `extra`, on the CPU."""
    return {key.removeprefix("extra."): value for key, value in tensors.items() if key.startswith("extra.")}


def save(folder: Path, identity: dict, epoch: int, tensors: dict[str, Tensor], values: dict) -> None:
    """Write the state after `epoch`; a kill at any point leaves this state or the one before.

    `identity` says which run this is, in values that survive JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"epoch-{epoch:04d}.safetensors"
    content = to_bytes({k: v.detach().contiguous() for k, v in tensors.items()})
    write_atomic(weights, lambda path: Path(path).write_bytes(content))
    named = {"weights": weights.name, "weights sha256": seals.digest(content).decode()}
    seals.write_json(folder / "state.json", {"identity": identity, "epoch": epoch, **named, "values": values})
    # The older weights go last: a kill before this line leaves a state that names an existing file.
    for old in folder.glob("epoch-*.safetensors"):
        if old != weights:
            old.unlink()


def load(folder: Path, identity: dict) -> tuple[int, dict[str, Tensor], dict]:
    """(epoch, tensors, values) of the run `identity`; (0, {}, {}) where `folder` holds nothing.

    Raises ValueError when the folder belongs to another run, and, naming the file, when one was altered or cut short.
    """
    if not (folder / "state.json").exists():
        return 0, {}, {}
    state = seals.read_json(folder / "state.json")
    for key, value in identity.items():
        found = state["identity"].get(key)
        if found != value:
            raise ValueError(f"checkpoint: {folder} belongs to another run ({key}: {found}, here {value})")
    content = (folder / state["weights"]).read_bytes()
    if seals.digest(content).decode() != state["weights sha256"]:
        raise ValueError(seals.REFUSED.format(path=folder / state["weights"]))
    return state["epoch"], from_bytes(content), state["values"]
