"""scikit-learn's scans of handwritten digits: real images that need no download."""

from __future__ import annotations

from functools import cached_property

import attrs

from atlas_core.contracts import DataSpec
from atlas_datasets_builtin.splits import TensorSplit, pick, std_of, stratified


@attrs.frozen
class Digits:
    """1797 handwritten digits, 8×8, in 17 grey levels: small enough to train on while you wait.

    The split is scikit-learn's stratified train_test_split(test_size=0.2, random_state=0): 1437 to train, 360 to test.
    Items are (1, 8, 8) in [−1, 1]; conditions are the digits 0 to 9.
    """

    paper = "Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits (UCI)"
    splits = ("train", "test")

    @cached_property
    def _splits(self) -> dict[str, TensorSplit]:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        return stratified(images.reshape(-1, 1, 8, 8) / 8 - 1, labels)

    @cached_property
    def spec(self) -> DataSpec:
        names = tuple(str(digit) for digit in range(10))
        return DataSpec(shape=(1, 8, 8), classes=names, std=std_of(self._splits["train"]), levels=17)

    def split(self, name: str) -> TensorSplit:
        return pick(self._splits, name)
