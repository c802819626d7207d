"""What the deposit says of itself: RO-Crate metadata (https://w3id.org/ro/crate/1.1), out of CITATION.cff and the
manifest of `data/`."""

from collections.abc import Iterable
from pathlib import Path

from palimpsest.data import manifest
from palimpsest.publish import citation
from palimpsest.publish.citation import SPDX

NAME = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/crate/1.1"


def describe(root: Path, names: Iterable[str], commit: str, date: str) -> dict:
    """The metadata as JSON-LD.

    Args:
        root: the checkout that CITATION.cff and data/MANIFEST are read from.
        names: paths in the deposit; each of the folders that they begin with becomes a part.
        commit, date: of the sources, the date in ISO 8601.

    Raises ValueError as `manifest.read` does.
    """
    cff, data = citation.read(root), manifest.read(root / "data")
    names = set(names)
    folders = {f"{name.partition('/')[0]}/" for name in names if "/" in name}
    listed = [_file(entry) for path, entry in data.items() if f"data/{path}" in names]
    alone = {name for name in names if "/" not in name}
    parts = [
        *({"@id": folder, "@type": "Dataset", "name": folder.rstrip("/")} for folder in sorted(folders)),
        *({"@id": name, "@type": "File", "name": name} for name in sorted(alone)),
        *listed,
    ]
    authors = [
        {"@id": f"#author-{number}", "@type": "Person" if "family-names" in author else "Organization", "name": name}
        for number, (author, name) in enumerate(zip(cff["authors"], citation.authors(cff), strict=True), 1)
    ]
    papers = [
        {"@id": work["url"], "@type": "ScholarlyArticle", "name": work["title"], "datePublished": str(work["year"])}
        for work in cff["references"]
    ]
    used = {SPDX + name for name in cff["license"]} | {entry["license"]["@id"] for entry in listed}
    licences = [{"@id": name, "@type": "CreativeWork", "name": name.removeprefix(SPDX)} for name in sorted(used)]
    whole = {
        "@id": "./",
        "@type": "Dataset",
        "name": cff["title"],
        "description": f"Sources, data, results and built site of commit {commit}; SHA256SUMS lists each file.",
        "version": cff["version"],
        "datePublished": date,
        "license": [{"@id": SPDX + name} for name in cff["license"]],
        "author": _references(authors),
        "keywords": cff["keywords"],
        "citation": _references(papers),
        "hasPart": _references(parts),
    }
    itself = {
        "@id": NAME,
        "@type": "CreativeWork",
        "conformsTo": {"@id": PROFILE},
        "about": {"@id": "./"},
    }
    return {"@context": f"{PROFILE}/context", "@graph": [itself, whole, *authors, *papers, *licences, *parts]}


def _file(entry: dict) -> dict:
    """A file of `data/`, by its entry in the manifest."""
    return {
        "@id": f"data/{entry['path']}",
        "@type": "File",
        "name": entry["path"],
        "description": f"{entry['origin']}; made by {entry['made_by']}",
        "contentSize": str(entry["bytes"]),
        "license": {"@id": SPDX + entry["licence"]},
    }


def _references(entities: list[dict]) -> list[dict]:
    return [{"@id": entity["@id"]} for entity in entities]
