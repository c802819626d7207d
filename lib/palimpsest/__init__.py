"""Palimpsest: a reproducible companion to five papers on forgetting, selecting and speculating."""

__version__ = "0.1.0"
