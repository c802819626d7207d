"""Unlearning in language models: one method per file, one loop (`unlearn`), one registry (`METHODS`)."""

from .ceu import CEU
from .dpo import DPO, IdkDPO
from .grad_ascent import GradAscent
from .grad_diff import GradDiff
from .importance import importances, pruned_share
from .kl import NPOKL, GradDiffKL
from .lora import LoraSettings
from .method import Objective
from .npo import NPO
from .pdu import PDU
from .rmu import RMU
from .sam import SamNPO
from .satimp import SatImp
from .sau import SAU
from .simnpo import SimNPO
from .task_vector import TaskVector
from .trainer import Report, unlearn
from .undial import Undial
from .update import Update, redistribution
from .wga import WGA

METHODS: dict[str, Objective] = {
    "GradAscent": GradAscent(),
    "GradDiff": GradDiff(),
    "GradDiff + KL": GradDiffKL(),
    "NPO": NPO(),
    "NPO + KL": NPOKL(),
    "SimNPO": SimNPO(),
    "DPO": DPO(),
    "IdkDPO": IdkDPO(),
    "RMU": RMU(),
    "UNDIAL": Undial(),
    "WGA": WGA(),
    "SatImp": SatImp(),
    "CE-U": CEU(),
    "PDU": PDU(),
    "task vector": TaskVector(),
    "NPO + SAM": SamNPO(),
    "SAU": SAU(),
}
"""Name in tables -> the objective with its settings."""

__all__ = [
    "CEU",
    "DPO",
    "METHODS",
    "NPO",
    "NPOKL",
    "PDU",
    "RMU",
    "SAU",
    "WGA",
    "GradAscent",
    "GradDiff",
    "GradDiffKL",
    "IdkDPO",
    "LoraSettings",
    "Objective",
    "Report",
    "SamNPO",
    "SatImp",
    "SimNPO",
    "TaskVector",
    "Undial",
    "Update",
    "importances",
    "pruned_share",
    "redistribution",
    "unlearn",
]
