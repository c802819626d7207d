import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from typer.testing import CliRunner

from palimpsest.commands.main import app
from palimpsest.data import manifest
from palimpsest.runs import paths


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A small data folder with its manifest: two recorded results, a claim and a benchmark."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    root = tmp_path / "data"
    files = {
        "results/a.json": '{"accuracy": 0.8125}',
        "results/b.json": '{"accuracy": 0.5}',
        "claims/x.yaml": "- id: x\n",
        "bench/k.csv": "n,ms\n8,1.5\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    manifest.update(files, root=root)
    return root


def test_the_shipped_folder_is_as_listed_and_small():
    manifest.check()
    shipped = [e for name, e in manifest.read().items() if name.startswith("fashion_mnist/")]
    assert sum(entry["bytes"] for entry in shipped) < 8_000_000
    assert all(entry["licence"] and entry["origin"] and entry["made_by"] for entry in shipped)


@pytest.mark.parametrize("position", [0, 1000, -1])
def test_one_byte_of_a_shipped_image_file_is_noticed(tmp_path, position):
    shutil.copy(paths.DATA / "MANIFEST", tmp_path)
    shutil.copytree(paths.DATA / "fashion_mnist", tmp_path / "fashion_mnist")
    victim = tmp_path / "fashion_mnist/test.png"
    content = bytearray(victim.read_bytes())
    content[position] ^= 1
    victim.write_bytes(content)
    with pytest.raises(ValueError, match=f"{victim}: altered"):
        manifest.verify(victim, tmp_path)


def test_a_good_folder_passes_and_entries_say_what_they_should(root):
    manifest.check(root=root)
    entry = yaml.safe_load((root / "MANIFEST").read_text())[-2]
    content = b'{"accuracy": 0.8125}'
    assert entry == {
        "path": "results/a.json",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "licence": "CC-BY-4.0",
        "origin": "this project",
        "made_by": "palimpsest",
    }


@pytest.mark.parametrize("name", ["results/a.json", "claims/x.yaml", "bench/k.csv"])
def test_truncated_altered_and_missing_files_are_named(root, name):
    file = root / name
    whole = file.read_bytes()
    for content, fault in (
        (whole[:-1], "truncated"),
        (whole[:-1] + b"~", "altered"),
        (whole + b" ", "altered"),
    ):
        file.write_bytes(content)
        for look in (lambda: manifest.check(root=root), lambda: manifest.verify(name, root)):
            with pytest.raises(ValueError, match=rf"{file}: {fault}") as error:
                look()
            assert len(str(error.value).splitlines()) == 1
    file.unlink()
    for look in (lambda: manifest.check(root=root), lambda: manifest.verify(file, root)):
        with pytest.raises(ValueError, match=f"{file}: missing"):
            look()


def test_an_unlisted_file_is_named_and_every_fault_has_a_line(root):
    (root / "results/new.json").write_text("{}")
    (root / "results/b.json").unlink()
    with pytest.raises(ValueError, match=r"results/b.json: missing.*\n.*results/new.json: unlisted"):
        manifest.check(root=root)
    with pytest.raises(ValueError, match=r"new.json: unlisted"):
        manifest.verify("results/new.json", root)
    manifest.check(["results/a.json"], root)


def test_half_written_and_editors_files_are_not_data(root):
    (root / "results/.a.json.x1").write_text("half")
    (root / "claims/.ipynb_checkpoints").mkdir()
    (root / "claims/.ipynb_checkpoints/x.yaml").write_text("old")
    manifest.check(root=root)


def test_verify_returns_the_file_and_refuses_paths_outside(root):
    assert manifest.verify("results/a.json", root).read_text() == '{"accuracy": 0.8125}'
    with pytest.raises(ValueError, match="want a file under"):
        manifest.verify("../elsewhere.json", root)


def test_update_accepts_one_file_and_leaves_the_others_entries(root):
    before = manifest.read(root)
    (root / "results/a.json").write_text('{"accuracy": 0.75}')
    (root / "results/b.json").write_text('{"accuracy": 0.99}')
    manifest.update([root / "results/a.json"], root=root)
    after = manifest.read(root)
    assert list(after) == sorted(after)
    assert after["results/b.json"] == before["results/b.json"]
    with pytest.raises(ValueError, match=r"b.json: altered") as error:
        manifest.check(root=root)
    assert "a.json" not in str(error.value)


def test_update_drops_what_is_gone_and_refuses_what_never_was(root):
    (root / "results/b.json").unlink()
    manifest.update(["results/b.json"], root=root)
    manifest.check(root=root)
    before = (root / "MANIFEST").read_bytes()
    with pytest.raises(ValueError, match=r"results/c.json does not exist and is not listed"):
        manifest.update(["results/a.json", "results/c.json"], root=root)
    assert (root / "MANIFEST").read_bytes() == before


def test_update_is_repeatable_and_safe_for_two_at_a_time(root):
    before = (root / "MANIFEST").read_bytes()
    manifest.update(["results/a.json"], root=root)
    assert (root / "MANIFEST").read_bytes() == before
    names = [f"results/{number}.json" for number in range(12)]
    for name in names:
        (root / name).write_text(name)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: manifest.update([name], root=root), names))
    manifest.check(root=root)


def test_entering_a_changed_file_keeps_what_else_its_entry_says(root):
    said = {"licence": "MIT", "origin": "elsewhere", "made_by": "hand"}
    manifest.update(["claims/x.yaml"], **said, root=root)
    (root / "claims/x.yaml").write_text("- id: y, and longer\n")
    (entry,) = manifest.enter([root / "claims/x.yaml"], origin="here", root=root)
    assert entry == manifest.read(root)["claims/x.yaml"]
    assert entry["bytes"] == 20
    assert entry.items() >= (said | {"origin": "here"}).items()
    manifest.check(root=root)


def test_a_new_file_is_entered_with_all_that_an_entry_says(root):
    (root / "claims/new.yaml").write_text("- id: new\n")
    before = (root / "MANIFEST").read_bytes()
    with pytest.raises(ValueError, match=r"^origin: claims/new.yaml is new in MANIFEST, want its origin, made_by$"):
        manifest.enter(["claims/x.yaml", "claims/new.yaml"], licence="MIT", root=root)
    assert (root / "MANIFEST").read_bytes() == before
    manifest.enter(["claims/new.yaml"], licence="MIT", origin="o", made_by="m", root=root)
    manifest.check(root=root)


def test_entering_drops_what_is_gone_and_refuses_what_is_no_file(root):
    (root / "results/b.json").unlink()
    assert manifest.enter(["results/b.json"], root=root) == []
    manifest.check(root=root)
    for path, message in {
        "results": "want a file that MANIFEST lists",
        "MANIFEST": "want a file that MANIFEST lists",
        "results/c.json": "does not exist and is not listed",
        "../x": "want a file under",
    }.items():
        with pytest.raises(ValueError, match=f"^path: got .*{message}"):
            manifest.enter([path], licence="MIT" if path == "MANIFEST" else None, root=root)


def test_the_command_enters_by_path_from_where_it_is_called(root, monkeypatch):
    monkeypatch.setattr(paths, "DATA", root)
    monkeypatch.chdir(root.parent)
    (root / "claims/x.yaml").write_text("- id: y\n")
    refused = CliRunner().invoke(app, ["data"])
    assert refused.exit_code == 1
    assert "x.yaml: altered" in refused.stderr
    done = CliRunner().invoke(app, ["data", "--list", "data/claims/x.yaml"])
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == ["8", "CC-BY-4.0", "claims/x.yaml"]
    assert len(CliRunner().invoke(app, ["data"]).stdout.splitlines()) == 4
    alone = CliRunner().invoke(app, ["data", "--licence", "MIT"])
    assert "licence: got 'MIT' without --list" in alone.stderr


def test_a_kill_while_the_manifest_is_written_leaves_the_old_one(root, monkeypatch):
    before = (root / "MANIFEST").read_bytes()
    (root / "results/a.json").write_text("{}")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            manifest.update(["results/a.json"], root=root)
    assert (root / "MANIFEST").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- path: [", "not readable as YAML"),
        ("path: a", "got a dict, want a list"),
        ("- {path: a, bytes: 3}", "entry 1: got .* want exactly path"),
        (
            "- {path: a, sha256: b, bytes: '3', licence: c, origin: d, made_by: e}",
            "entry 1: got .* want exactly path",
        ),
        (
            "- &e {path: a, sha256: b, bytes: 3, licence: c, origin: d, made_by: e}\n- *e",
            "entry 2: a is listed twice",
        ),
    ],
)
def test_a_malformed_manifest_is_refused(root, text, message):
    (root / "MANIFEST").write_text(text)
    with pytest.raises(ValueError, match=f"MANIFEST: {message}"):
        manifest.check(root=root)


def test_a_missing_manifest_is_refused(root):
    (root / "MANIFEST").unlink()
    with pytest.raises(ValueError, match="MANIFEST: missing"):
        manifest.check(root=root)
