"""Does this machine compute what the accepted values were computed with? A digest for each piece of a short training.

`python -m palimpsest.runs.digest` computes the pieces with pinned arithmetic and prints what `digests.json` holds:
the digests, the versions of the packages and the processor. Where a piece's digest is another one under the same
versions, chapters that compute such pieces may print other values.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from palimpsest import arithmetic
from palimpsest.kernels import lsq_quantize

from .machine import installed, processor

COMMITTED = Path(__file__).with_name("digests.json")
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "transformers")
"""What computes the pieces."""

STEPS = 8
"""Of every training: rounding that differs once is in all weights by then."""


def committed() -> dict:
    """What `digests.json` holds: `digests` by piece, `versions` by package, `processor`."""
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def fresh() -> dict:
    """The same of this machine, computed with pinned arithmetic by a process of its own, whatever the environment of
    this one asks. RuntimeError where that process fails, or could not pin its arithmetic."""
    # The pin comes before numpy and torch are imported, which importing this module would do.
    code = "from palimpsest import arithmetic; arithmetic.pin(); from palimpsest.runs import digest; digest.say()"
    environment = os.environ | {"PALIMPSEST_ARITHMETIC": "pinned"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the digests could not be computed: {(done.stderr.splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout)


def say() -> None:
    """Print this process's digests, one thread each. RuntimeError where its arithmetic is not pinned."""
    from threadpoolctl import threadpool_limits  # sets a variable of the environment as it is imported

    arithmetic.require()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        digests = {name: short(piece()) for name, piece in PIECES.items()}
    versions = {name: installed(name).partition("+")[0] for name in PACKAGES}  # +cpu is a build, not a version
    print(json.dumps({"digests": digests, "versions": versions, "processor": processor()}, indent=1))


def short(arrays: list[np.ndarray]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 over dtype, shape and bytes of each array."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def numbers(*shape: int, start: int = 0) -> Tensor:
    """float32 in [-1, 1) without a generator or a sum: the same bits wherever integers are multiplied."""
    count = torch.Size(shape).numel()
    words = (torch.arange(start, start + count) * 2654435761) % 2**24
    return (words.to(torch.float32) / 2**23 - 1).view(shape)


def start(module: nn.Module) -> None:
    """Give every matrix numbers of its own, small enough to train with, in place of drawn ones; biases are 0."""
    for number, (name, parameter) in enumerate(module.named_parameters()):
        if parameter.ndim > 1:
            parameter.data = numbers(*parameter.shape, start=number * 2**20) / parameter[0].numel() ** 0.5
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def train(step: Callable[[], Tensor], optimiser: torch.optim.Optimizer) -> None:
    for _ in range(STEPS):
        optimiser.zero_grad()
        step().backward()
        optimiser.step()


def weights(module: nn.Module) -> list[np.ndarray]:
    return [value.numpy() for value in module.state_dict().values()]


def convolution() -> list[np.ndarray]:
    """Convolutions with batch norm, the last wide enough to be cut into blocks; SGD with momentum."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 128, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU()),
        *(nn.Conv2d(128, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)),
    )
    start(model)
    images, labels = numbers(64, 1, 28, 28), torch.arange(64) % 10
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    train(lambda: nn.functional.cross_entropy(model(images), labels), optimiser)
    return weights(model)


def quantiser() -> list[np.ndarray]:
    """Two layers whose weights and activations are quantised to four bits with learned steps."""
    model = nn.Sequential(nn.Linear(96, 128), nn.Linear(128, 10))
    start(model)
    steps = nn.ParameterList([torch.tensor(0.05) for _ in range(4)])
    inputs, labels = numbers(64, 96), torch.arange(64) % 10

    def loss() -> Tensor:
        hidden = inputs
        for layer, of_input, of_weight in zip(model, steps[::2], steps[1::2], strict=True):
            weight = lsq_quantize(layer.weight, of_weight, -8, 7)
            hidden = nn.functional.linear(lsq_quantize(hidden, of_input, -8, 7), weight, layer.bias).relu()
        return nn.functional.cross_entropy(hidden, labels)

    train(loss, torch.optim.SGD([*model.parameters(), *steps], lr=0.01, momentum=0.9))
    return [*weights(model), *(step.detach().numpy() for step in steps)]


def attention() -> list[np.ndarray]:
    """A Llama of two layers, AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM  # here: it takes seconds to import

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=128,
    )
    model = LlamaForCausalLM(config)
    start(model)
    tokens = (torch.arange(8 * 64) * 2654435761 % 509).view(8, 64)
    train(lambda: model(input_ids=tokens, labels=tokens).loss, torch.optim.AdamW(model.parameters(), lr=1e-3))
    return weights(model)


def support_vectors() -> list[np.ndarray]:
    """The attack of `metrics.membership`: scikit-learn's SVC on one feature."""
    from sklearn.svm import SVC

    feature = (numbers(400, 1).double().numpy() + 1) / 2
    member = (np.arange(400) % 3 > 0).astype(np.int64)
    machine = SVC(kernel="rbf", C=3, gamma="auto").fit(feature, member)
    return [machine.decision_function(feature), machine.dual_coef_]


def neighbours() -> list[np.ndarray]:
    """Distances to the ten nearest of 2,000 points, by scikit-learn."""
    from sklearn.neighbors import NearestNeighbors

    points = numbers(2000, 64).double().numpy() / 3  # as they are, numbers are so short that no sum is rounded
    return list(NearestNeighbors(n_neighbors=10).fit(points).kneighbors(points[:500]))


def sampling() -> list[np.ndarray]:
    """Draws and orders of torch's and numpy's generators."""
    torchs, numpys = torch.Generator().manual_seed(0), np.random.default_rng(0)
    shares = (numbers(20, 1000) + 1).double()
    drawn = [
        torch.multinomial(shares, 50, generator=torchs),
        torch.multinomial(shares, 50, replacement=True, generator=torchs),
        torch.randperm(10_000, generator=torchs),
        torch.randn(10_000, generator=torchs),
        torch.rand(10_000, generator=torchs),
    ]
    return [
        *(values.numpy() for values in drawn),
        numpys.permutation(10_000),
        numpys.standard_normal(10_000),
        numpys.choice(1000, 200, replace=False),
        numpys.dirichlet(np.ones(10), 100),
    ]


def torch_sums() -> list[np.ndarray]:
    """torch's matrix products and sums, of sizes at which caches decide how they are cut; exponentials."""
    left, right, line = numbers(1024, 1024), numbers(1024, 1024, start=2**20), numbers(10**6)
    products = [left @ right, left[:333, :777] @ right[:777, :555], left.double() @ (right.double() / 3)]
    sums = [line.sum(), line.mean(), line.std(), left.sum(0), left.sum(1), line.cumsum(0)[-1], left.norm()]
    soft = [left.softmax(1), left.exp(), left.tanh(), left.logsumexp(1)]
    return [values.numpy() for values in (*products, *sums, *soft)]


def numpy_sums() -> list[np.ndarray]:
    """The same of numpy, with a decomposition."""
    left, right = numbers(1024, 1024).numpy(), numbers(1024, 1024, start=2**20).numpy()
    line, square = numbers(10**6).numpy(), (left[:200, :200] + left[:200, :200].T).astype(np.float64)
    products = [left @ right, left[:333, :777] @ right[:777, :555], left.astype(np.float64) @ (right / np.float64(3))]
    sums = [line.sum(), line.mean(), line.std(), left.sum(0), left.sum(1), np.linalg.norm(left)]
    soft = [np.exp(left), np.log(left + 2), np.tanh(left), np.linalg.eigvalsh(square)]
    return [np.asarray(values) for values in (*products, *sums, *soft)]


PIECES: dict[str, Callable[[], list[np.ndarray]]] = {
    "convolution": convolution,
    "quantiser": quantiser,
    "attention": attention,
    "support vectors": support_vectors,
    "neighbours": neighbours,
    "sampling": sampling,
    "sums of torch": torch_sums,
    "sums of numpy": numpy_sums,
}
"""In the order in which they are computed and named."""


if __name__ == "__main__":
    print(json.dumps(fresh(), indent=1))
