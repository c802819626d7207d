"""The figures of the drills: a row for each part, in `data/bench/drills.cpu.csv`."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from palimpsest.data import manifest
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic

NAME = "bench/drills.cpu.csv"
COUNTED = ("tried", "right", "caught", "silent", "foreign", "lost")


@dataclass(frozen=True)
class Row:
    """What came of one part of a drill; the modules of the drills say what is counted."""

    drill: str
    part: str
    seed: int
    tried: int
    right: int
    caught: int
    silent: int
    foreign: int
    lost: int
    cpu: str
    python: str
    torch: str
    commit: str
    date: str

    @staticmethod
    def of(drill: str, part: str, seed: int, counts: Mapping[str, int], environment: Mapping, date: str) -> "Row":
        """`environment`: that of `runs.environment`; what `counts` lacks is 0."""
        made = (environment[name] for name in ("processor", "python", "torch", "commit"))
        return Row(drill, part, seed, *(counts.get(name, 0) for name in COUNTED), *made, date)


def read() -> list[Row]:
    """The rows, none where there is no file. ValueError for a file that is not the listed one."""
    if not (paths.DATA / NAME).exists():
        return []
    with manifest.verify(NAME).open(encoding="utf-8", newline="") as file:
        kinds = {field.name: field.type for field in fields(Row)}
        return [Row(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]


def write(row: Row) -> None:
    """Put `row` in the place of the earlier one of its part, or at the end."""
    rows = {(old.drill, old.part): old for old in read()} | {(row.drill, row.part): row}
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(asdict(row))
    table.writerows(astuple(one) for one in rows.values())
    write_atomic(paths.DATA / NAME, lambda file: Path(file).write_text(text.getvalue(), encoding="utf-8"))
    manifest.update([NAME], made_by="make drills")
