"""Unlearning as the last step of a training by transformers' `Trainer`, which needs the package accelerate."""

from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .drop_in import Report, unlearn


class Forget(TrainerCallback):
    """When training ends, after the best model was loaded where that is asked for, the model forgets `forget`, places
    in the `train_dataset` of the Trainer:

        forgetting = Forget([3, 17, 28], method="SalUn", lr=0.01)
        Trainer(model, arguments, train_dataset=data, callbacks=[forgetting]).train()

    `settings`, and ValueError at the end of the training, as `drop_in.unlearn`, whose `report` of the latest training
    is kept. For weights in float32 on one device: nothing is gathered from others.
    """

    def __init__(self, forget: Tensor | list[int], **settings):
        self.forget, self.settings = forget, settings
        self.report: Report | None = None

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: PreTrainedModel,
        train_dataloader: DataLoader,
        **_,
    ) -> None:
        self.report = unlearn(model, train_dataloader, self.forget, **self.settings)
