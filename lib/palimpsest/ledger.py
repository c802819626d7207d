"""Claims and results. A claim says what a paper states and how it is tested; a result says what was measured.

Two comparisons are made and never merged. Measured against the *paper* gives the verdict, and a claim that does
not hold is a finding. Measured against *our last accepted value* is a regression test, and a difference beyond
the tolerance is a red build.

`data/claims/<paper>.yaml` holds the claims, `data/results/<paper>.<profile>.json` what was accepted, and
`_build/fresh/` what the chapters measured last. `accept` copies the last into the second.

Chapters compute with pinned arithmetic (`palimpsest.arithmetic`), so one accepted value is that of every processor.
"""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

from palimpsest import arithmetic
from palimpsest.data import manifest
from palimpsest.metrics.statistics import Estimate
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic
from palimpsest.runs.machine import environment, processor

VERDICTS = ("reproduced", "trend only", "not reproduced", "not run")
"""From the strongest to the weakest."""
KINDS = ("exact", "ordering", "band", "scaling")
FRESH = paths.BUILD / "fresh"


@dataclass(frozen=True)
class Judgement:
    """What one run says of one claim: an estimate with its 95 % interval, a verdict, and the reason in words."""

    id: str
    measured: Estimate
    verdict: str
    why: str

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict of {self.id}: got {self.verdict!r}, want one of {VERDICTS}")


@dataclass(frozen=True)
class Claim:
    """One claim of one paper, with what was accepted for it (`judgement` and `record` are None if nothing was).

    `floor` is the smallest tolerance of the regression test, in `unit`s, for the reason `floor_reason`.
    `cell` is `notebook#cell-tag`: the cell that prints the verdict.
    """

    id: str
    paper: str
    locus: str
    statement: str
    kind: str
    paper_value: str
    paper_setting: str
    our_setting: str
    profile: str
    measure: str
    unit: str
    rule: str
    floor: float
    floor_reason: str
    cell: str
    command: str
    judgement: Judgement | None = field(default=None)
    record: dict | None = field(default=None)

    @property
    def verdict(self) -> str:
        return self.judgement.verdict if self.judgement else "not run"

    def tolerance(self, measured: Estimate) -> float:
        """max(3 standard deviations of the reported mean, the stated floor)."""
        return max(3 * measured.sd / math.sqrt(measured.n), self.floor)


def load(results: Path | None = None) -> list[Claim]:
    """All claims, in the order of their files, with the results found in `results` (default: the accepted ones).

    Raises ValueError naming the file and
    the claim when an entry is malformed or an identifier is used twice.
    """
    claims: dict[str, Claim] = {}
    for file in sorted((paths.DATA / "claims").glob("*.yaml")):
        manifest.verify(file.relative_to(paths.DATA))
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
            try:
                claim = Claim(**entry)
            except TypeError as error:
                raise ValueError(f"{file}: claim {entry.get('id', entry)}: {error}") from error
            if claim.id in claims:
                raise ValueError(f"{file}: claim {claim.id} is defined twice")
            if claim.kind not in KINDS:
                raise ValueError(f"{file}: kind of {claim.id}: got {claim.kind!r}, want one of {KINDS}")
            claims[claim.id] = claim
    for paper, profile in sorted({(file_of(c), c.profile) for c in claims.values()}):
        path = (results or paths.DATA / "results") / f"{paper}.{profile}.json"
        for name, (judgement, record) in _read(path, claims).items():
            claims[name] = replace(claims[name], judgement=judgement, record=record)
    return list(claims.values())


def _read(path: Path, claims: dict[str, Claim]) -> dict[str, tuple[Judgement, dict]]:
    """(judgement, record) by claim; none where there is no such file. Accepted files are checked first."""
    if not path.exists():
        return {}
    if path.is_relative_to(paths.DATA):
        manifest.verify(path.relative_to(paths.DATA))
    stored, runs = json.loads(path.read_text(encoding="utf-8")), {}
    for entry in stored.pop("claims"):
        if entry["id"] not in claims:
            raise ValueError(f"{path}: result {entry['id']} belongs to no claim")
        runs[entry["id"]] = Judgement(**{**entry, "measured": Estimate(**entry["measured"])}), stored
    return runs


def file_of(claim: Claim) -> str:
    """The stem of the claim's files: `jscds` for claim `jscds-half`."""
    return claim.id.partition("-")[0]


def record(paper: str, profile: str, judgements: list[Judgement]) -> Path:
    """Write what a chapter measured to `_build/fresh/`; `accept` makes it the accepted result.

    Raises RuntimeError where the chapter did not compute with the arithmetic that was asked for.
    """
    arithmetic.require()
    content = {"profile": profile, "claims": [asdict(j) for j in judgements]}
    path = FRESH / f"{paper}.{profile}.json"
    write_atomic(path, lambda file: Path(file).write_text(json.dumps(content, indent=1, ensure_ascii=False)))
    return path


def accept(runtimes: dict[str, float]) -> list[Path]:
    """Make the fresh results the accepted ones, with the environment, date and `runtimes` (seconds by paper).

    Papers without a fresh result keep what was accepted. Returns the files written.
    """
    accepted = []
    for fresh in sorted(FRESH.glob("*.json")):
        content = json.loads(fresh.read_text(encoding="utf-8"))
        paper = fresh.name.partition(".")[0]
        content |= {
            "environment": {**environment(), "processor": processor()},
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "runtime_s": runtimes.get(paper),
        }
        path = paths.DATA / "results" / fresh.name
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_atomic(path, lambda file, text=text: Path(file).write_text(text, encoding="utf-8"))
        accepted.append(path)
    manifest.update([path.relative_to(paths.DATA) for path in accepted])
    return accepted


def drift(claim: Claim, fresh: Judgement) -> str | None:
    """Why `fresh` differs from what was accepted for `claim`, or None when it agrees within tolerance."""
    if claim.judgement is None:
        return f"{claim.id}: nothing was accepted yet"
    accepted, measured = claim.judgement, fresh.measured
    if fresh.verdict != accepted.verdict:
        return f"{claim.id}: the verdict is now {fresh.verdict!r}, accepted was {accepted.verdict!r}"
    if measured.n != accepted.measured.n:
        return f"{claim.id}: {measured.n} seeds, accepted were {accepted.measured.n}"
    tolerance = claim.tolerance(accepted.measured)
    for name in ("mean", "sd", "low", "high"):
        now, before = getattr(measured, name), getattr(accepted.measured, name)
        if not abs(now - before) <= tolerance:
            return (
                f"{claim.id}: {name} is now {now:.4g} {claim.unit}, accepted was {before:.4g}; "
                f"the tolerance is {tolerance:.4g}"
            )
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
    """What a chapter prints and nbval compares: the verdict, and the value to the tolerance's precision.

    Floating-point results differ in their last digits between machines. Within the tolerance the accepted value
    is printed, so that the text is the same everywhere; beyond it the drift is.
    """
    claim = {c.id: c for c in load()}.get(judgement.id)
    if claim is None:
        raise ValueError(f"id: got {judgement.id!r}, which is no claim in data/claims")
    difference = drift(claim, judgement)
    if difference and claim.judgement is not None:
        return f"DRIFT {difference}"
    if claim.judgement is None:
        claim = replace(claim, judgement=judgement)
    shown = claim.judgement.measured
    seeds = f", {shown.n} seeds" if shown.n > 1 else ""
    return f"{claim.id}: {claim.verdict}\n{claim.measure}: {shown.mean:+.1f} {claim.unit}{seeds}"
