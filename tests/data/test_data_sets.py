import gzip
import hashlib
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from palimpsest import data
from palimpsest.build import fashion_mnist as build_fashion_mnist
from palimpsest.data import elpv, fashion_mnist, manifest
from palimpsest.runs import paths

SOURCE = Path("/usr/share/datasets/fashion-mnist")
DECODED = {
    "train": "8cd3bc7824f3d6ef945db633180941e8b5abc04a63b3565d6485cd9cacbfc2a0",
    "test": "ab60cca0d678b76d43800a2495beed656fcc42938f0647c6e4c1df3206bae95b",
}


def decoded_digest(split):
    return hashlib.sha256(split.images.numpy().tobytes() + split.labels.numpy().tobytes()).hexdigest()


def tables(root):
    return {
        name: np.loadtxt(root / f"fashion_mnist/{name}.csv", np.int64, delimiter=",", skiprows=1) for name in DECODED
    }


@pytest.fixture(scope="module")
def fashion():
    return data.load("fashion-mnist")


@pytest.mark.parametrize(("name", "per_class"), [("train", 1200), ("test", 400)])
def test_fashion_mnist_sizes_balance_and_pixels(fashion, name, per_class):
    split = getattr(fashion, name)
    assert split.images.shape == (10 * per_class, 28, 28)
    assert split.labels.bincount().tolist() == [per_class] * 10
    assert decoded_digest(split) == DECODED[name]


def test_fashion_mnist_train_and_test_share_no_image_and_no_source_twice(fashion):
    images = [image.tobytes() for split in (fashion.train, fashion.test) for image in split.images.numpy()]
    assert len(set(images)) == 16_000
    for table in tables(paths.DATA).values():
        assert len(np.unique(table[:, 0])) == len(table)


def test_fashion_mnist_is_in_source_order_not_sorted_by_class(fashion):
    table = tables(paths.DATA)["test"]
    assert torch.equal(fashion.test.labels, torch.from_numpy(table[np.argsort(table[:, 0]), 1]))
    assert len(fashion.test.labels[:100].unique()) == 10


def test_fashion_mnist_normalisation_is_that_of_its_training_split(fashion):
    pixels = fashion.train.pixels()
    assert pixels.shape == (12_000, 1, 28, 28)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    # The constants have four decimals, so each is off by at most 5e-5; divided by the deviation, .35.
    assert abs(float(pixels.double().mean())) < 5e-5 / 0.354
    assert abs(float(pixels.double().std()) - 1) < 5e-5 / 0.354
    assert fashion.test.mean == fashion.train.mean


needs_source = pytest.mark.skipif(not SOURCE.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")


@needs_source
@pytest.mark.parametrize("name", ["train", "test"])
def test_drawing_again_gives_the_shipped_pixels_and_table(name):
    mosaic, table = build_fashion_mnist.draw(SOURCE, name)
    with Image.open(paths.DATA / f"fashion_mnist/{name}.png") as shipped:
        assert np.array_equal(np.asarray(shipped), mosaic)
    assert (paths.DATA / f"fashion_mnist/{name}.csv").read_bytes() == table


@needs_source
def test_building_twice_gives_the_same_bytes_and_a_folder_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(build_fashion_mnist, "PER_CLASS", {"train": 20, "test": 10})
    for root in (tmp_path / "one", tmp_path / "two"):
        build_fashion_mnist.build(SOURCE, root)
        manifest.check(root=root)
    files = sorted(file.relative_to(root) for file in root.rglob("*") if file.is_file())
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    built = fashion_mnist.load(root)
    assert (len(built.train), built.test.labels.bincount().tolist()) == (200, [10] * 10)


@needs_source
def test_source_images_stand_where_the_tables_say(fashion):
    images, labels = build_fashion_mnist.read_source(SOURCE, "test")
    index = np.sort(tables(paths.DATA)["test"][:, 0])
    assert np.array_equal(images[index], fashion.test.images.numpy())
    assert np.array_equal(labels[index], fashion.test.labels.numpy())


def test_mosaic_puts_tiles_in_reading_order_and_back():
    images = np.zeros((200, 28, 28), np.uint8) + np.arange(200, dtype=np.uint8)[:, None, None]
    images[:, 0, 1] = 255
    mosaic = fashion_mnist.to_mosaic(images)
    assert mosaic.shape == (56, 2800)
    assert [mosaic[5, 5], mosaic[5, 28 + 5], mosaic[28 + 5, 5], mosaic[28, 1]] == [0, 1, 100, 255]
    assert np.array_equal(fashion_mnist.from_mosaic(mosaic), images)


def write_shard(file, column, arrays, labels, kind="PNG"):
    cells = []
    for number, array in enumerate(arrays):
        image = file.parent / f"{number}.{kind.lower()}"
        Image.fromarray(array).save(image, kind)
        cells.append({"bytes": image.read_bytes(), "path": None})
        image.unlink()
    schema = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(
        pa.table({column: pa.array(cells, schema), "label": pa.array(labels, pa.int64())}),
        file,
        write_page_checksum=True,
        write_statistics=False,
    )


def test_builder_reads_the_hubs_layout_and_refuses_another_set(tmp_path):
    arrays = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    for split in ("train", "test"):
        write_shard(tmp_path / f"{split}-00000-of-00001.parquet", "image", arrays, range(6))
    images, labels = build_fashion_mnist.read_source(tmp_path, "train")
    assert np.array_equal(images, arrays)
    assert labels.tolist() == list(range(6))
    with pytest.raises(ValueError, match="train images and labels are not Fashion-MNIST's"):
        build_fashion_mnist.build(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_builder_names_a_missing_and_a_truncated_source_file(tmp_path):
    file = tmp_path / "train-images-idx3-ubyte.gz"
    with pytest.raises(ValueError, match=f"{file}: missing"):
        build_fashion_mnist.read_source(tmp_path, "train")
    file.write_bytes(gzip.compress(bytes(1000))[:-9])
    with pytest.raises(ValueError, match=f"{file}: truncated or altered"):
        build_fashion_mnist.read_source(tmp_path, "train")


@pytest.mark.parametrize(("file", "fault"), [("train.png", "altered"), ("test.csv", "missing")])
def test_a_damaged_set_is_refused_by_name_before_decoding(tmp_path, monkeypatch, file, fault):
    root = tmp_path / "data"
    shutil.copytree(paths.DATA, root)
    monkeypatch.setattr(paths, "DATA", root)
    victim = root / "fashion_mnist" / file
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content) if fault == "altered" else victim.unlink()
    with pytest.raises(ValueError, match=f"{victim}: {fault}"):
        data.load("fashion-mnist")


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"name: got 'mnist', want one of \['cifar10', 'elpv', 'fashion-mnist'\]"):
        data.load("mnist")


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    folder = tmp_path / "uoft-cs/cifar10/plain_text"
    folder.mkdir(parents=True)
    arrays = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    write_shard(folder / "train-00000-of-00002.parquet", "img", arrays[:6], [0, 9, 2, 3, 4, 5])
    write_shard(folder / "train-00001-of-00002.parquet", "img", arrays[6:], [1, 1, 8, 7])
    write_shard(folder / "test-00000-of-00001.parquet", "img", arrays[:3], [5, 6, 7])
    monkeypatch.setenv("PALIMPSEST_HUB", str(tmp_path))
    return folder, arrays


def test_cifar10_from_a_mirror(mirror):
    folder, arrays = mirror
    found = data.load("cifar10")
    assert np.array_equal(found.train.images.numpy(), arrays)
    assert found.train.labels.tolist() == [0, 9, 2, 3, 4, 5, 1, 1, 8, 7]
    assert found.test.labels.tolist() == [5, 6, 7]
    assert found.origin == "CIFAR-10"
    wanted = (arrays[7, 2, 3].astype(np.float64) / 255 - found.train.mean) / found.train.std
    # Three fp32 operations on values up to 3: a few units of 2^-23.
    assert torch.allclose(found.train.pixels()[7, :, 2, 3].double(), torch.from_numpy(wanted), atol=12 * 2**-23)
    write_shard(folder / "test-00000-of-00001.parquet", "img", arrays[:3], [5, 6, 7], kind="JPEG")
    assert data.load("cifar10").origin == "CIFAR-10 (JPEG)"


def test_cifar10_names_a_missing_truncated_or_altered_file(mirror):
    folder, arrays = mirror
    second = folder / "train-00001-of-00002.parquet"
    whole = second.read_bytes()
    second.unlink()
    with pytest.raises(ValueError, match=f"{second}: missing"):
        data.load("cifar10")
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{second}: truncated"):
        data.load("cifar10")
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 1
    second.write_bytes(altered)
    with pytest.raises(ValueError, match=f"{second}: truncated, altered"):
        data.load("cifar10")
    write_shard(second, "image", arrays[:2], [0, 1])
    with pytest.raises(ValueError, match=f"{second}: truncated, altered or of another layout"):
        data.load("cifar10")
    write_shard(second, "img", arrays[:2, :16], [0, 1])
    with pytest.raises(ValueError, match=f"{second}: row 0: encodings and sizes differ"):
        data.load("cifar10")
    write_shard(second, "img", arrays[:2], [0, 10])
    with pytest.raises(ValueError, match=r"labels of cifar10/train: got values in 0 .. 10, want 0 .. 9"):
        data.load("cifar10")


def test_cifar10_without_a_mirror_names_both_ways(monkeypatch):
    monkeypatch.delenv("PALIMPSEST_HUB", raising=False)
    monkeypatch.delenv("PALIMPSEST_ALLOW_HUB", raising=False)
    with pytest.raises(ValueError, match=r"PALIMPSEST_HUB .* PALIMPSEST_ALLOW_HUB=1"):
        data.load("cifar10")


def test_cifar10_asks_the_hub_only_when_allowed(mirror, monkeypatch):
    folder, arrays = mirror
    write_shard(folder / "train-00000-of-00001.parquet", "img", arrays, range(10))
    asked = []

    def hf_hub_download(repository, file, repo_type):
        asked.append((repository, file, repo_type))
        return str(folder.parent / file)

    monkeypatch.delenv("PALIMPSEST_HUB")
    monkeypatch.setenv("PALIMPSEST_ALLOW_HUB", "1")
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download))
    assert len(data.load("cifar10").train) == 10
    assert asked[1] == ("uoft-cs/cifar10", "plain_text/test-00000-of-00001.parquet", "dataset")


@pytest.mark.hub
@pytest.mark.skipif("PALIMPSEST_HUB" not in os.environ, reason="PALIMPSEST_HUB is not set")
def test_cifar10_from_the_real_mirror():
    found = data.load("cifar10")
    assert found.train.images.shape == (50_000, 32, 32, 3)
    assert found.train.labels.bincount().tolist() == [5000] * 10
    assert found.test.labels.bincount().tolist() == [1000] * 10
    mean = found.train.images.double().mean((0, 1, 2)) / 255
    # A re-encoded copy shifts a channel's mean by less than half a grey level.
    assert torch.allclose(mean, torch.tensor(found.train.mean).double(), atol=0.5 / 255)


def fake_elpv(monkeypatch, probability):
    images = np.arange(len(probability), dtype=np.uint8)[:, None, None] + np.zeros((1, 4, 4), np.uint8)
    module = types.SimpleNamespace(load_dataset=lambda: (images, probability, None))
    monkeypatch.setitem(sys.modules, "elpv_dataset", types.ModuleType("elpv_dataset"))
    monkeypatch.setitem(sys.modules, "elpv_dataset.utils", module)


def test_elpv_grades_and_stratified_split(monkeypatch):
    probability = np.tile([0.0, 1 / 3, 0.6666666666666666, 1.0], 20)
    fake_elpv(monkeypatch, probability)
    found = elpv.load()
    assert found.train.labels.bincount().tolist() == [15] * 4
    assert found.test.labels.bincount().tolist() == [5] * 4
    samples = torch.cat([found.train.images, found.test.images])[:, 0, 0]
    assert sorted(samples.tolist()) == list(range(80))
    assert torch.equal(torch.cat([found.train.labels, found.test.labels]), samples.long() % 4)


def test_elpv_absent_or_of_other_grades(monkeypatch):
    fake_elpv(monkeypatch, np.array([0.0, 0.5]))
    with pytest.raises(ValueError, match="want 0, 1/3, 2/3, 1"):
        data.load("elpv")
    monkeypatch.setitem(sys.modules, "elpv_dataset.utils", None)
    with pytest.raises(ValueError, match="pip install elpv-dataset"):
        data.load("elpv")


def grey(n=4):
    return data.Split(torch.arange(n * 6, dtype=torch.uint8).view(n, 2, 3), torch.arange(n), "t", (0.5,), (0.25,))


def test_split_subset_and_pixels_by_hand():
    split = grey()
    part = split.subset(torch.tensor([3, 0]))
    assert (len(split), len(part), part.labels.tolist()) == (4, 2, [3, 0])
    # Pixel (1, 2) of image 3 holds 23: (23 / 255 - .5) / .25.
    assert part.pixels()[0, 0, 1, 2].item() == pytest.approx(-1.639216, abs=1e-6)
    assert split.images[3, 1, 2] == 23


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(4, 2, 3)}, "images: got torch.float32"),
        ({"images": torch.zeros(4, 2, 3, 1, dtype=torch.uint8)}, r"images: got torch.uint8 \[4, 2, 3, 1\]"),
        ({"labels": torch.arange(3)}, r"labels: got torch.int64 \[3\], want int64 \[4\]"),
        ({"labels": torch.zeros(4)}, "labels: got torch.float32"),
        ({"mean": (0.1, 0.2, 0.3)}, "want 1 value"),
    ],
)
def test_split_refuses_other_shapes_and_dtypes(change, message):
    with pytest.raises(ValueError, match=message):
        data.Split(**({**vars(grey())} | change))


@pytest.mark.parametrize("indices", [[4], [-1], [0.5], [[0]]])
def test_subset_refuses_indices_it_has_not(indices):
    with pytest.raises(ValueError, match="indices: got"):
        grey().subset(torch.tensor(indices))
