"""The same bits on every x86-64 processor with AVX2.

Libraries choose their routines by the processor, so sums are rounded differently, and training amplifies that until
networks are others. `pin` makes torch, oneDNN, MKL, numpy and OpenBLAS take the routines that every such processor
has. The variables are read when a library starts to work: pin first. Only the standard library is imported here, so
that this can be done before numpy and torch are.
"""

import os
import platform

PINS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
}
"""Environment variables, for: torch's own loops, its convolutions, its matrix products; numpy, its linear algebra."""

MODES = ("pinned", "native")
X86 = ("x86_64", "amd64")


def variables() -> dict[str, str]:
    """What the environment of a process needs whose results shall not depend on the processor: `PINS`, or nothing
    where PALIMPSEST_ARITHMETIC asks for "native". Raises ValueError for another value than "pinned" or "native"."""
    wanted = os.environ.get("PALIMPSEST_ARITHMETIC", MODES[0])
    if wanted not in MODES:
        raise ValueError(f"PALIMPSEST_ARITHMETIC: got {wanted!r}, want one of {MODES}")
    return PINS if wanted == "pinned" else {}


def pin() -> None:
    """Pin the arithmetic of the processes that this one starts, and its own if no library has begun to work."""
    os.environ.update(variables())


def label() -> str:
    """How this process computes: "pinned", or "native" and why."""
    if not variables():
        return "native, as PALIMPSEST_ARITHMETIC asks"
    if platform.machine().lower() not in X86:
        return f"native: {platform.machine()} has none of the routines"
    for name, value in PINS.items():
        if os.environ.get(name) != value:
            return f"native: {name} is {os.environ.get(name)!r}, not {value!r}"
    import torch  # not before: `pin` must come first
    from numpy._core._multiarray_umath import __cpu_features__ as features

    if any(features.get(name) for name in PINS["NPY_DISABLE_CPU_FEATURES"].split()):
        return "native: numpy was imported before the arithmetic was pinned"
    if (capability := torch.backends.cpu.get_cpu_capability()) != "AVX2":
        return f"native: torch works with {capability}"
    return "pinned"


def require() -> None:
    """Raise RuntimeError where this process does not compute as PALIMPSEST_ARITHMETIC asks, though it could."""
    found = label()
    if variables() and found != "pinned" and platform.machine().lower() in X86:
        raise RuntimeError(
            f"arithmetic: {found}. Import palimpsest.chapters before numpy and torch, or set "
            "PALIMPSEST_ARITHMETIC=native to compute with the processor's own routines"
        )
