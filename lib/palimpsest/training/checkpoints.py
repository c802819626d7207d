"""The state of a run that can be continued: one folder, one file of tensors, one of plain values."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from palimpsest.runs.files import write_atomic


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """sha256 over shapes and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def save(folder: Path, identity: dict, epoch: int, tensors: dict[str, torch.Tensor], values: dict) -> None:
    """Write the state after `epoch`; a kill at any point leaves this state or the one before.

    `identity` says which run this is, in values that survive JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"epoch-{epoch:04d}.safetensors"
    content = to_bytes({k: v.detach().contiguous() for k, v in tensors.items()})
    write_atomic(weights, lambda path: Path(path).write_bytes(content))
    state = {"identity": identity, "epoch": epoch, "weights": weights.name, "values": values}
    write_atomic(folder / "state.json", lambda path: Path(path).write_text(json.dumps(state, indent=1)))
    # The older weights go last: a kill before this line leaves a state that names an existing file.
    for old in folder.glob("epoch-*.safetensors"):
        if old != weights:
            old.unlink()


def load(folder: Path, identity: dict) -> tuple[int, dict[str, torch.Tensor], dict]:
    """(epoch, tensors, values) of the run `identity`; (0, {}, {}) where `folder` holds nothing.

    Raises ValueError when the folder belongs to another run.
    """
    if not (folder / "state.json").exists():
        return 0, {}, {}
    state = json.loads((folder / "state.json").read_text())
    for key, value in identity.items():
        found = state["identity"].get(key)
        if found != value:
            raise ValueError(f"checkpoint: {folder} belongs to another run ({key}: {found}, here {value})")
    with safe_open(folder / state["weights"], framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return state["epoch"], tensors, state["values"]


def momentum_of(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Momentum buffers by name; zeros where no update was made yet."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return {
        f"momentum.{i}": optimiser.state[p].get("momentum_buffer", torch.zeros_like(p))
        for i, p in enumerate(parameters)
    }


def restore(model: torch.nn.Module, optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put what `save` stored under "model." and "momentum." back, on the model's device."""
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for i, parameter in enumerate(parameters):
        buffer = torch.empty_like(parameter).copy_(tensors[f"momentum.{i}"])
        optimiser.state[parameter]["momentum_buffer"] = buffer
