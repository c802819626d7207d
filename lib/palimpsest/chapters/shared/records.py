"""Rows of runs too long to repeat with the book, kept in `data/results/<experiment>.rows.<profile>.json`.

A chapter shows them as recorded, beside what it computes itself and never in its place.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from palimpsest import runs
from palimpsest.data import manifest
from palimpsest.runs import paths


def path_of(name: str, profile: str) -> Path:
    return paths.DATA / "results" / f"{name}.rows.{profile}.json"


def plain_rows(table: pd.DataFrame) -> list[dict]:
    """The rows of a table as JSON takes them: what is missing is None."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def write(name: str, profile: str, tuned: list[dict], rows: pd.DataFrame) -> Path:
    """Record the rows of experiment `name` with their command, environment and date, and what tuning found."""
    content = {
        "command": f"palimpsest run {name} --profile {profile}",
        "environment": runs.environment(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seeds": sorted(set(rows.seed.tolist())),
        "tuned": tuned,
        "rows": plain_rows(rows),
    }
    file, text = path_of(name, profile), json.dumps(content, indent=0, allow_nan=False)
    runs.write_atomic(file, lambda path: Path(path).write_text(text))
    manifest.update([file.relative_to(paths.DATA)])
    return file


def read(name: str, profile: str) -> dict | None:
    """What `write` recorded, "rows" as a table; None if nothing was. ValueError if the file was altered."""
    file = path_of(name, profile)
    if not file.exists():
        return None
    content = json.loads(manifest.verify(file.relative_to(paths.DATA)).read_text())
    return content | {"rows": pd.DataFrame(content["rows"])}


def shown(name: str, profile: str) -> dict | None:
    """`read`, and print how the rows came about: command (as it was called at that commit), seeds, date, machine,
    versions, commit."""
    record = read(name, profile)
    if record is None:
        print(f"not run: no rows of profile {profile} are recorded")
        return None
    made = record["environment"]
    print(f"{record['command']}, seeds {record['seeds']}, recorded {record['date']}")
    print("of this run its rows alone: predictions were not kept, so nothing here is recomputed from them")
    print(
        f"{made['device']}, {made['cores']} cores ({made['cpu']}), torch {made['torch']}, "
        f"transformers {made['transformers']}, commit {made['commit']}"
    )
    return record
