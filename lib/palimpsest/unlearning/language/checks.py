"""What `unlearn` refuses."""

import torch
from torch import nn

from palimpsest.checks import require_count, require_number
from palimpsest.nets.language import IGNORED, Encoded
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language.method import Objective


def check(
    model: nn.Module,
    forget: Encoded,
    retain: Encoded,
    method: Objective,
    idk: Encoded | None,
    lr: float,
    epochs: int,
    batch_size: int,
    seed: int,
    weight_decay: float,
    warmup_epochs: float,
) -> None:
    """Raise ValueError naming the argument that cannot be meant."""
    decoder_layers(model)
    kinds = {p.dtype for p in model.parameters()}
    if not kinds <= {torch.float32, torch.float64} or len(kinds) != 1:
        raise ValueError(
            f"model: got weights of {sorted(map(str, kinds))}, want float32 or float64: a step of 1e-5 is lost in "
            "the rounding of half precision"
        )
    if not isinstance(method, Objective):
        raise ValueError(f"method: got {method!r}, want an objective, for example METHODS['NPO']")
    require_number("lr", lr)
    require_number("weight_decay", weight_decay, least=0)
    require_number("warmup_epochs", warmup_epochs, least=0)
    require_count("epochs", epochs)
    require_count("batch_size", batch_size)
    require_count("seed", seed, least=0)
    vocabulary = model.get_input_embeddings().num_embeddings
    for name, data in (("forget", forget), ("retain", retain), ("idk", idk)):
        if data is not None:
            _check_sequences(name, data, vocabulary)
    if method.needs_idk and (idk is None or len(idk) != len(forget)):
        got = "None" if idk is None else f"{len(idk)} sequences"
        raise ValueError(f"idk: got {got}, want one for each of {len(forget)} to forget")


def _check_sequences(name: str, data: Encoded, vocabulary: int) -> None:
    if not isinstance(data, Encoded) or data.ids.ndim != 2 or data.ids.shape != data.labels.shape:
        raise ValueError(f"{name}: got {type(data).__name__}, want Encoded with ids and labels [N, T]")
    if len(data) == 0:
        raise ValueError(f"{name}: got no sequence, want at least one")
    empty = (~(data.labels != IGNORED).any(1)).nonzero().flatten()
    if len(empty):
        raise ValueError(f"{name}: row {empty[0].item()} has no answer token")
    for tokens in (data.ids, data.labels[data.labels != IGNORED]):
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= vocabulary:
            raise ValueError(f"{name}: got token {low if low < 0 else high}, want 0 to {vocabulary - 1}")
