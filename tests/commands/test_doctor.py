"""`palimpsest doctor` names the pieces of arithmetic that come out otherwise here."""

import platform

import pytest
from typer.testing import CliRunner

from palimpsest.commands import doctor
from palimpsest.commands.main import app
from palimpsest.runs import digest, machine


@pytest.fixture
def found(monkeypatch):
    """What this machine computes, to be changed; by default what is committed."""
    result = digest.committed()
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(digest, "fresh", lambda: result)
    return result


def test_every_piece_agrees_and_the_processor_is_named(found):
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    assert f"pinned arithmetic on {machine.processor()}, beside" in done.stdout
    assert [line for line in done.stdout.splitlines() if "agrees" in line] == [
        f"     agrees   {name}" for name in digest.PIECES
    ]
    assert "differs" not in done.stdout


def test_a_piece_that_differs_is_named_with_what_it_means_and_a_version_that_may_be_why(found):
    found["digests"]["quantiser"] = "0" * 16
    found["versions"]["numpy"] = "9.9"
    told = list(doctor.agreement())
    assert "differs  quantiser: chapters may print other values here" in told
    assert len([line for line in told if line.startswith("agrees")]) == len(digest.PIECES) - 1
    assert told[-1].startswith("another version, which may be why: numpy 9.9, committed with 2.")


def test_another_kind_of_processor_is_not_compared(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    (line,) = doctor.agreement()
    assert line.startswith("not compared: aarch64 has none of the routines")


def test_a_digest_that_could_not_be_computed_is_no_traceback(monkeypatch):
    def broken():
        raise RuntimeError("the digests could not be computed: no room")

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(digest, "fresh", broken)
    assert list(doctor.agreement()) == ["not compared: the digests could not be computed: no room"]
