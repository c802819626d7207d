"""Unlearning in image classifiers: one method per file, one loop (`unlearn`), one registry (`METHODS`)."""

from .bad_teacher import BadTeacher
from .boundary_shrink import BoundaryShrink
from .fine_tune import FineTune
from .gradient_ascent import GradientAscent
from .influence import Influence
from .l1_sparse import L1Sparse
from .laf import LAF
from .method import Method
from .neggrad_plus import NegGradPlus
from .oeu import OEU
from .qmul import QMul
from .random_label import RandomLabel
from .salun import SalUn
from .scrub import Scrub
from .ssd import SSD
from .trainer import Report, unlearn

METHODS: dict[str, Method] = {
    "Bad Teacher": BadTeacher(),
    "boundary shrink": BoundaryShrink(),
    "fine-tune": FineTune(),
    "gradient ascent": GradientAscent(),
    "influence": Influence(),
    "l1-sparse": L1Sparse(),
    "LAF": LAF(),
    "NegGrad+": NegGradPlus(),
    "OEU": OEU(),
    "Q-MUL": QMul(),
    "random label": RandomLabel(),
    "SalUn": SalUn(),
    "SCRUB": Scrub(),
    "SSD": SSD(),
}
"""Name in tables -> the method with its settings."""

__all__ = [
    "LAF",
    "METHODS",
    "OEU",
    "SSD",
    "BadTeacher",
    "BoundaryShrink",
    "FineTune",
    "GradientAscent",
    "Influence",
    "L1Sparse",
    "Method",
    "NegGradPlus",
    "QMul",
    "RandomLabel",
    "Report",
    "SalUn",
    "Scrub",
    "unlearn",
]
