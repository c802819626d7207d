"""Neighbours of the five papers: rivals and stress tests in the same protocol."""
