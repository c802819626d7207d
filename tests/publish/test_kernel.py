"""Chapters are executed by this environment's Python and by no other."""

import json

import pytest

from palimpsest.publish import gates, kernel


@pytest.fixture
def another(tmp_path, monkeypatch):
    """JUPYTER_PATH with a kernel `python3` that starts a Python which is gone."""
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": [str(tmp_path / "gone" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    (folder / "kernel.json").write_text(json.dumps(spec | {"display_name": "Other", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    return folder


def test_the_environments_own_kernel_will_do(monkeypatch):
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    kernel.require()


@pytest.mark.parametrize("start", [kernel.require, lambda: gates.check_outputs([]), lambda: gates.execute("no")])
def test_another_kernel_of_its_name_is_named_with_where_it_lies(another, start, monkeypatch):
    monkeypatch.setattr(gates, "_pytest", lambda *arguments: None)
    with pytest.raises(
        RuntimeError, match=r"^kernel python3: .* starts .*gone/python, want .*unset JUPYTER_PATH"
    ) as caught:
        start()
    assert str(another) in str(caught.value)
    assert f"and JUPYTER_PATH is {another.parents[1]}" in str(caught.value)
