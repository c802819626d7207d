"""The same bits on every x86-64 processor with AVX2.

Libraries choose their routines by the processor, so sums are rounded differently, and training amplifies that until
networks are others. `pin` makes torch, oneDNN, MKL, numpy and OpenBLAS take the routines that every such processor
has. The variables are read when a library starts to work: pin first. Only the standard library is imported here, so
that this can be done before numpy and torch are.
"""

import os
import sys

PINS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
}
"""Environment variable -> value: torch's own loops, its convolutions, its matrix products; numpy; its linear algebra."""

MODES = ("pinned", "native")


def mode() -> str:
    """What PALIMPSEST_ARITHMETIC asks for: "pinned", the default, or "native". Raises ValueError for another value."""
    wanted = os.environ.get("PALIMPSEST_ARITHMETIC", MODES[0])
    if wanted not in MODES:
        raise ValueError(f"PALIMPSEST_ARITHMETIC: got {wanted!r}, want one of {MODES}")
    return wanted


def pin() -> None:
    """Pin the arithmetic of this process and of those that it starts, unless "native" is asked for.

    Raises RuntimeError where torch or numpy has begun to work with other routines: pin before they are imported.
    """
    if mode() == "native":
        return
    os.environ.update(PINS)
    found = in_use()
    if found != "as pinned":
        raise RuntimeError(
            f"arithmetic: {found}; import palimpsest.chapters before torch and numpy, or set "
            "PALIMPSEST_ARITHMETIC=native to compute with the processor's own routines"
        )


def in_use() -> str:
    """Whether what is loaded by now works as pinned: "as pinned", or what does not, in words."""
    numpy = sys.modules.get("numpy._core._multiarray_umath")
    if numpy is not None and any(numpy.__cpu_features__.get(name) for name in PINS["NPY_DISABLE_CPU_FEATURES"].split()):
        return "numpy works with AVX-512"
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "backends"):
        capability = torch.backends.cpu.get_cpu_capability()
        if capability != "AVX2" and capability.startswith(("AVX", "DEFAULT")):
            return f"torch works with {capability}"
    return "as pinned"
