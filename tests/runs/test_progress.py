"""The progress bar."""

from palimpsest import runs


def test_progress_goes_to_the_file_named_and_not_to_the_terminal(tmp_path, monkeypatch, capsys):
    log = tmp_path / "progress.log"
    log.write_text("before\n")
    monkeypatch.setenv("PALIMPSEST_PROGRESS", str(log))
    with runs.progress_bar(total=2, desc="counting sheep") as bar:
        bar.update()
    assert log.read_text().startswith("before\n")
    assert "counting sheep:  50%" in log.read_text()
    assert capsys.readouterr() == ("", "")


def test_progress_goes_to_standard_error_otherwise(capsys):
    with runs.progress_bar(total=2, desc="counting sheep", initial=1):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert "counting sheep:  50%" in err


def test_a_bar_without_a_label_is_silent(tmp_path, monkeypatch, capsys):
    log = tmp_path / "progress.log"
    for target in ("", str(log)):
        monkeypatch.setenv("PALIMPSEST_PROGRESS", target)
        with runs.progress_bar(total=2, desc=None) as bar:
            bar.update()
    assert capsys.readouterr() == ("", "")
    assert not log.exists()
