"""Bad Teacher: learn the forget set from an incompetent teacher (Chundawat et al. 2023, AAAI)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.checks import require_number
from palimpsest.nets.lockstep import side_by_side
from palimpsest.nets.quantised import Quantised, first_step, steps
from palimpsest.nets.redrawn import redrawn
from palimpsest.unlearning.vision.distillation import divergence, taught, teach
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task


@dataclass(frozen=True)
class BadTeacher(Method):
    """KL(teacher ‖ current) on shuffled batches of both sets; the teacher of a forget sample is a network of random
    weights, that of a retain sample the original.

    Stated by the paper: the loss, and that 30 % of the retain set are enough. Released code: both teachers in
    evaluation mode, temperature 1, a share of the retain set drawn once; one epoch of Adam at 1e-4, which has no
    counterpart among step sizes of SGD. Our reading: the protocol's SGD and number of epochs; the mean over samples,
    where the code also divides by the number of classes.
    """

    retain_share: float = 0.3
    temperature: float = 1.0

    def __post_init__(self):
        require_number("retain_share", self.retain_share, most=1)
        require_number("temperature", self.temperature)

    def begin(self, task: Task) -> None:
        count = max(1, int(self.retain_share * task.retain.shape[1]))
        drawn = [
            torch.randperm(task.retain.shape[1], generator=task.generator(0, k, "share"))[:count]
            for k in range(task.networks)
        ]
        kept = task.retain.gather(1, torch.stack(drawn).to(task.retain.device))
        task.memory["kept"] = kept
        teach(task, [(task.forget, incompetent(task)), (kept, task.net)])

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        for batch in task.batches(torch.cat([task.forget, task.memory["kept"]], 1), epoch):
            loss = divergence(taught(task, batch), task.logits(task.images(batch)), self.temperature)
            task.descend(task.gradients(loss))
            yield


def incompetent(task: Task) -> nn.Module:
    """K networks like those of `task`, side by side, with fresh weights (`nets.redrawn`).

    A quantised layer gets steps as LSQ starts them, s = 2·mean|v|/√Q_P, from its fresh weight and from what reaches
    it when the network sees its first batch of forget samples (one pass, counted); the trained steps would round
    the small activations of a random network to zero. Raises ValueError for a layer that cannot reset its weights.
    """
    fresh = []
    for k, model in enumerate(task.models):
        network = redrawn(model, task.generator(0, k, "teacher").initial_seed(), "Bad Teacher")
        fresh.append(network.to(task.x.device).eval())
        _start_steps(fresh[-1], task.x[k, task.forget[k, : task.batch_size]])
    if steps(fresh[0]):
        task.samples_forward += min(task.batch_size, task.forget.shape[1])
    return side_by_side(fresh)


@torch.no_grad()
def _start_steps(network: nn.Module, images: Tensor) -> None:
    def start(layer: Quantised, inputs: tuple[Tensor]) -> None:
        layer.weight_step.fill_(first_step(layer.weight.abs().mean().item(), layer.weight_range[1]))
        layer.input_step.fill_(first_step(inputs[0].abs().mean().item(), layer.input_range[1]))

    hooks = [m.register_forward_pre_hook(start) for m in network.modules() if isinstance(m, Quantised)]
    if hooks:
        network(images)
    for hook in hooks:
        hook.remove()
