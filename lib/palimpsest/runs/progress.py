"""The one progress bar."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from tqdm import tqdm


@contextmanager
def progress_bar(*, total: int, desc: str | None, initial: int = 0, layout: str | None = None) -> Iterator[tqdm]:
    """A progress bar on standard error, or in the file that `PALIMPSEST_PROGRESS` names.

    The notebook gate sets that variable: a bar written into a notebook would make its outputs differ from run to
    run. `desc=None` gives a silent bar. `layout` is tqdm's `bar_format`.
    """
    target = os.environ.get("PALIMPSEST_PROGRESS")
    silent = desc is None
    with (
        open(target, "a", buffering=1) if target and not silent else nullcontext(sys.stderr) as file,
        tqdm(
            total=total,
            initial=initial,
            desc=desc,
            file=file,
            disable=silent,
            dynamic_ncols=True,
            bar_format=layout,
        ) as bar,
    ):
        yield bar
