"""Claims and results. A claim says what a paper states and by which quantity it is judged; a result says what was
measured, and the verdict that follows (`palimpsest.verdicts`).

Two comparisons are made and never merged. Measured against the *paper* gives the verdict, and a claim that does not
hold is a finding. Measured against *our last accepted value* is a regression test: chapters compute with pinned
arithmetic (`palimpsest.arithmetic`), so every digit that is printed must be the accepted one.

`data/claims/<paper>.yaml` holds the claims, `data/results/<paper>.<profile>.json` what was accepted, and
`_build/fresh/` what the chapters measured last. `accept` copies the last into the second, paper by paper.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path

import yaml

from palimpsest import arithmetic, verdicts
from palimpsest.data import manifest
from palimpsest.metrics.statistics import Estimate, needed
from palimpsest.runs import paths
from palimpsest.runs.cache import LOADER
from palimpsest.runs.files import write_atomic
from palimpsest.runs.machine import environment
from palimpsest.verdicts import Quantity

KINDS = ("exact", "ordering", "equivalence", "scaling")
BY = ("paper", "ours", "construction")
FRESH = paths.BUILD / "fresh"


@dataclass(frozen=True)
class Judgement:
    """What one run says of one claim: the estimate that is shown, a verdict, its p value, and the reason in words."""

    id: str
    measured: Estimate
    verdict: str
    p: float
    why: str

    def __post_init__(self):
        if self.verdict not in verdicts.VERDICTS:
            raise ValueError(f"verdict of {self.id}: got {self.verdict!r}, want one of {verdicts.VERDICTS}")


@dataclass(frozen=True)
class Claim:
    """One claim, with what was accepted for it (`judgement` and `record` are None if nothing was).

    It is `by` the paper, ours about a paper, or a guarantee by construction. `also` holds, by name, what must hold
    together with the first quantity. `cell` is `notebook#cell-tag`: the cell that prints the verdict. `pending` maps
    the verdict "inconclusive" or "not run" to the reason for which nothing else is said yet.
    """

    id: str
    paper: str
    by: str
    locus: str
    statement: str
    kind: str
    paper_value: str
    paper_setting: str
    profile: str
    quantity: str
    unit: str
    wants: str
    margin: float
    margin_reason: str
    cell: str
    command: str
    bar: float = 0.0
    also: dict[str, dict] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    judgement: Judgement | None = None
    record: dict | None = None

    def __post_init__(self):
        for name, known in (("kind", KINDS), ("by", BY)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} of {self.id}: got {getattr(self, name)!r}, want one of {known}")
        if len(self.pending) > 1 or not self.pending.keys() <= {"inconclusive", "not run"}:
            raise ValueError(
                f"pending of {self.id}: got {self.pending}, want one reason for 'inconclusive' or 'not run'"
            )
        if (self.kind == "exact") != (self.wants == "zero") or (self.kind == "equivalence") != (
            self.wants == "within"
        ):
            raise ValueError(f"wants of {self.id}: got {self.wants!r}, which kind {self.kind!r} does not want")
        _ = self.quantities

    @cached_property
    def quantities(self) -> dict[str, Quantity]:
        """What is judged, by name; the first goes by the claim's own. Raises ValueError for one that is malformed."""
        first = Quantity(self.quantity, self.unit, self.wants, self.margin, self.bar)
        return {self.id: first} | {name: Quantity(**fields) for name, fields in self.also.items()}

    @property
    def verdict(self) -> str:
        return self.judgement.verdict if self.judgement else "not run"

    @property
    def power(self) -> int | None:
        """How many seeds find the margin in four of five repetitions, by the measured spread; None for a count."""
        if self.judgement is None or self.judgement.measured.sd == 0:
            return None
        return needed(self.judgement.measured.sd, self.margin)


def claims() -> dict[str, Claim]:
    """The claims by identifier, in the order of their files, without results.

    Raises ValueError naming the file and the claim when an entry is malformed or an identifier is used twice.
    """
    found: dict[str, Claim] = {}
    for file in sorted((paths.DATA / "claims").glob("*.yaml")):
        manifest.verify(file.relative_to(paths.DATA))
        for entry in _entries(file.read_text(encoding="utf-8")):
            try:
                claim = Claim(**entry)
            except TypeError as error:
                raise ValueError(f"{file}: claim {entry.get('id', entry)}: {error}") from error
            if claim.id in found:
                raise ValueError(f"{file}: claim {claim.id} is defined twice")
            found[claim.id] = claim
    return found


@lru_cache(maxsize=16)
def _entries(text: str) -> list[dict]:
    # Each judgement asks for the claims, and most of a question's time was the reading of YAML.
    return yaml.load(text, LOADER)


def load(results: Path | None = None) -> list[Claim]:
    """All claims with the results found in `results` (default: the accepted ones). Raises ValueError as `claims`
    does, and for a result that belongs to no claim."""
    found = claims()
    for paper, profile in sorted({(file_of(c), c.profile) for c in found.values()}):
        path = (results or paths.DATA / "results") / f"{paper}.{profile}.json"
        for name, (judgement, record) in _read(path, found).items():
            found[name] = replace(found[name], judgement=judgement, record=record)
    return list(found.values())


def _read(path: Path, known: Mapping[str, Claim]) -> dict[str, tuple[Judgement, dict]]:
    """(judgement, record) by claim; none where there is no such file. Accepted files are checked first."""
    if not path.exists():
        return {}
    if path.is_relative_to(paths.DATA):
        manifest.verify(path.relative_to(paths.DATA))
    stored, runs = json.loads(path.read_text(encoding="utf-8")), {}
    for entry in stored.pop("claims"):
        if entry["id"] not in known:
            raise ValueError(f"{path}: result {entry['id']} belongs to no claim")
        runs[entry["id"]] = Judgement(**{**entry, "measured": Estimate(**entry["measured"])}), stored
    return runs


def file_of(claim: Claim) -> str:
    """The stem of the claim's files: `jscds` for claim `jscds-half`."""
    return claim.id.partition("-")[0]


def judge(
    name: str,
    measured: Estimate,
    why: str,
    *,
    family: Mapping[str, Estimate] | None = None,
    also: Mapping[str, Estimate] | None = None,
) -> Judgement:
    """What claim `name` makes of `measured`, the estimate of its first quantity.

    Where that quantity has to hold against several rivals, `family` has the estimate against each, and `measured`
    is the one that is shown. `also` has the estimates of the claim's further quantities, by their names. Raises
    ValueError for an unknown claim and for other quantities than the claim names.
    """
    claim = claims().get(name)
    if claim is None:
        raise ValueError(f"name: got {name!r}, which is no claim in data/claims")
    first, *others = claim.quantities
    if set(also or {}) != set(others):
        raise ValueError(f"also: got {sorted(also or {})} for {name}, want {sorted(others)}")
    parts = [(claim.quantities[first], e) for e in (family or {first: measured}).values()]
    parts += [(claim.quantities[other], e) for other, e in (also or {}).items()]
    for verdict, reason in claim.pending.items():
        return Judgement(name, measured, verdict, 1.0, f"{reason} {why}")
    return Judgement(name, measured, *verdicts.decide(parts), why)


def settle(judged: list[Judgement]) -> dict[str, Judgement]:
    """The judgements of one paper by identifier, corrected together: of what the paper itself claims, a verdict that
    does not survive Holm's procedure over all of these claims becomes "inconclusive", and says so."""
    known = claims()
    family = {
        j.id: j.p
        for j in judged
        if known[j.id].by == "paper" and known[j.id].kind != "exact" and not known[j.id].pending
    }
    kept, settled = verdicts.survivors(family), {}
    for j in judged:
        if j.id in family and j.id not in kept and j.verdict != "inconclusive":
            note = (
                f"Judged alone it would be {j.verdict} (p = {j.p:.2g}); over the {len(family)} claims of the paper "
                "that are judged here Holm's correction leaves it open."
            )
            j = replace(j, verdict="inconclusive", why=f"{j.why} {note}")
        settled[j.id] = j
    return settled


def record(paper: str, profile: str, setting: str, judgements: list[Judgement]) -> Path:
    """Write what a chapter measured to `_build/fresh/`, with its setting in words and the environment; `accept`
    makes it the accepted result.

    Raises RuntimeError where the chapter did not compute with the arithmetic that was asked for.
    """
    arithmetic.require()
    content = {
        "profile": profile,
        "setting": setting,
        "claims": [asdict(j) for j in judgements],
        "environment": environment(),
    }
    path = FRESH / f"{paper}.{profile}.json"
    write_atomic(path, lambda file: Path(file).write_text(json.dumps(content, indent=1, ensure_ascii=False)))
    return path


def accept(papers: list[str], runtimes: Mapping[str, float]) -> list[Path]:
    """Make the fresh results of `papers` the accepted ones, with the date and `runtimes` (seconds by paper; without
    one, the seconds accepted before stay). Other papers keep what was accepted. Returns the files written.

    Raises ValueError, before anything is written, for a paper without a fresh result.
    """
    found = {paper: sorted(FRESH.glob(f"{paper}.*.json")) for paper in papers}
    for paper, files in found.items():
        if not files:
            raise ValueError(f"papers: {paper} has no fresh result; execute its chapter first")
    accepted = []
    for paper, fresh in ((paper, file) for paper, files in found.items() for file in files):
        path = paths.DATA / "results" / fresh.name
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        content = json.loads(fresh.read_text(encoding="utf-8")) | {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "runtime_s": runtimes.get(paper, before.get("runtime_s")),
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_atomic(path, lambda file, text=text: Path(file).write_text(text, encoding="utf-8"))
        accepted.append(path)
    manifest.update([path.relative_to(paths.DATA) for path in accepted])
    return accepted


def text(e: Estimate, unit: str) -> str:
    """`−1.20 points [−2.10, −0.30]`: the digits that are printed, and that a rerun is compared in."""
    mean, low, high = (f"{value:.2f}".replace("-", "−") for value in (e.mean, e.low, e.high))
    return " ".join(part for part in (mean, unit, f"[{low}, {high}]" if e.n > 1 else "") if part)


def drift(claim: Claim, fresh: Judgement) -> str | None:
    """Why `fresh` differs from what was accepted for `claim`, or None when it agrees.

    Under pinned arithmetic every printed digit, the verdict and the reason must be the accepted ones. A machine whose
    arithmetic cannot be pinned, or was asked not to be, draws as another seed would: there the mean must lie within
    the accepted interval.
    """
    if claim.judgement is None:
        return f"{claim.id}: nothing was accepted yet"
    accepted, now, before = claim.judgement, fresh.measured, claim.judgement.measured
    if now.n != before.n:
        return f"{claim.id}: {now.n} seeds, accepted were {before.n}"
    if arithmetic.label() != "pinned":
        if before.low <= now.mean <= before.high:
            return None
        return f"{claim.id}: is now {text(now, claim.unit)}, outside of the accepted {text(before, claim.unit)}"
    if fresh.verdict != accepted.verdict:
        return f"{claim.id}: the verdict is now {fresh.verdict!r}, accepted was {accepted.verdict!r}"
    if text(now, claim.unit) != text(before, claim.unit):
        return f"{claim.id}: is now {text(now, claim.unit)}, accepted was {text(before, claim.unit)}"
    if fresh.why != accepted.why:
        return f"{claim.id}: the reason is now {fresh.why!r}, accepted was {accepted.why!r}"
    return None


def regressions() -> list[str]:
    """Every difference between the fresh and the accepted results, and every claim without a fresh result."""
    fresh = {claim.id: claim.judgement for claim in load(FRESH)}
    problems = []
    for claim in load():
        if fresh[claim.id] is not None:
            problems.append(drift(claim, fresh[claim.id]))
        elif claim.judgement is not None:
            problems.append(f"{claim.id}: accepted, but no chapter measured it")
    return [problem for problem in problems if problem]


def report(judgement: Judgement) -> str:
    """What a chapter prints and nbval compares: the verdict and the value.

    Where the fresh value agrees with the accepted one, that one is printed, so that the text is the same on machines
    that compare within the interval; else the drift is.
    """
    claim = {c.id: c for c in load()}[judgement.id]
    difference = drift(claim, judgement)
    if difference and claim.judgement is not None:
        return f"DRIFT {difference}"
    shown = claim.judgement or judgement
    seeds = f", {shown.measured.n} seeds" if shown.measured.n > 1 else ""
    return f"{claim.id}: {shown.verdict}\n{claim.quantity}: {text(shown.measured, claim.unit)}{seeds}"
