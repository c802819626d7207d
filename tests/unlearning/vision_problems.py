"""Small networks and data that the tests of unlearning share."""

import torch
from torch import Tensor, nn

from palimpsest.nets import BodyAndHead
from palimpsest.nets.quantised import quantise
from palimpsest.unlearning.vision.task import Task

CLASSES, SIDE, N, F_SIZE = 4, 6, 20, 6
SETTINGS = {"epochs": 3, "batch_size": 4}


class Net(BodyAndHead):
    def __init__(self, seed: int, width: int = 3):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 2), nn.ReLU()]
            self.body = nn.Sequential(*layers, nn.Flatten())
            self.head = nn.Linear(4 * (SIDE - 3) ** 2, CLASSES)


class Foreign(nn.Module):
    """A reader's own network, without body, head or features, and with a parameter without dimensions."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.first, self.scale = nn.Linear(SIDE**2, 5), nn.Parameter(torch.tensor(1.5))
            self.second = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.scale * self.first(x.flatten(1)).tanh())


def data(networks: int = 2, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """x [K, N, 1, side, side], y [K, N], forget [K, F]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(networks, N, 1, SIDE, SIDE, generator=generator).to(dtype)
    y = torch.randint(CLASSES, (networks, N), generator=generator)
    return x, y, torch.stack([torch.randperm(N, generator=generator)[:F_SIZE] for _ in range(networks)])


def rest(forget: Tensor) -> Tensor:
    return torch.stack([torch.tensor(sorted(set(range(N)) - set(row.tolist()))) for row in forget])


def start(seeds, quantised: bool = False, dtype=torch.float64) -> list[nn.Module]:
    models = [Net(seed).to(dtype) for seed in seeds]
    return [quantise(m, "W4A4", data(1, dtype)[0][0]) for m in models] if quantised else models


def task(networks: int = 2, quantised: bool = False, **changes) -> Task:
    x, y, forget = data(networks)
    settings = {"seeds": list(range(networks)), "lr": torch.ones(networks), "epochs": 3, "batch_size": 4, **changes}
    forget = settings.pop("forget", forget)
    return Task(start(range(networks), quantised), x, y, forget, rest(forget), **settings)


def state(model: nn.Module) -> Tensor:
    return torch.cat([v.detach().flatten().double() for v in model.state_dict().values() if v.ndim])


def noise(parameters: list[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]


def cosine(t: Task, a: list[Tensor], b: list[Tensor]) -> Tensor:
    return t.dot(a, b) / (t.dot(a, a) * t.dot(b, b)).sqrt()


def minus(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [x - y for x, y in zip(a, b, strict=True)]
