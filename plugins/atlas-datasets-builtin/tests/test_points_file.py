"""Points from files: the numbers that stand there, to the last bit, or one clear word about what does not."""

from __future__ import annotations

import builtins
import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from atlas_datasets_builtin.points_file import PointsFile
from pyarrow import parquet

from atlas_core.errors import AtlasError, DataError

DRAWN = np.random.default_rng(0).normal(size=(7, 3)) * 1e3


def items(path: Path, **settings: Any) -> np.ndarray:
    return PointsFile(str(path), dtype="float64", **settings).split("train").items.numpy()


def refused(path: Path, *words: str, **settings: Any) -> str:
    """What a file is refused with; every word has to be in it."""
    with pytest.raises(DataError) as caught:
        _ = PointsFile(str(path), **settings).spec
    said = str(caught.value)
    assert str(path) in said
    for word in words:
        assert word in said, f"{word!r} is not in:\n{said}"
    return said


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


# ---- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_text_gives_every_bit_of_its_numbers(tmp_path: Path, delimiter: str, header: bool) -> None:
    lines = [delimiter.join(repr(float(value)) for value in row) for row in DRAWN]
    path = write(tmp_path / "a.csv", "\n".join([*([f"x{delimiter}y{delimiter}z"] if header else []), *lines]) + "\n")
    data = PointsFile(str(path), dtype="float64")
    np.testing.assert_array_equal(data.split("train").items.numpy(), DRAWN)
    assert data.coordinates == (("x", "y", "z") if header else ())
    assert data.spec.shape == (3,)
    assert data.spec.value_range is None
    assert data.spec.std == pytest.approx(DRAWN.std(), rel=1e-12)


def test_every_format_gives_the_same_points(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.tsv", DRAWN, delimiter="\t", fmt="%.17g")
    np.save(tmp_path / "a.npy", DRAWN)
    np.savez(tmp_path / "a.npz", points=DRAWN, other=np.zeros(3))
    columns = {name: DRAWN[:, number] for number, name in enumerate("xyz")}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    for name, settings in (("a.tsv", {}), ("a.npy", {}), ("a.npz", {"key": "points"}), ("a.parquet", {})):
        np.testing.assert_array_equal(items(tmp_path / name, **settings), DRAWN)


def test_columns_are_taken_by_name_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'name,y,"x, left",mass\ncat,1,2,0.5\ndog,3,4,1.5\n')
    data = PointsFile(str(path), columns=("x, left", "y"), weights="mass")
    assert data.split("train").items.tolist() == [[2, 1], [4, 3]]
    assert data.coordinates == ("x, left", "y")
    assert data.weights_of("train").tolist() == [0.25, 0.75]
    raw = PointsFile(str(path), columns=("y",), weights="mass", normalize=False)
    assert raw.weights_of("train").tolist() == [0.5, 1.5]
    numbered = write(tmp_path / "b.csv", "1,2,3\n4,5,6\n")
    assert items(numbered, columns=("3", "1")).tolist() == [[3, 1], [6, 4]]
    parquet.write_table(pyarrow.table({"x": [1.0, 2.0], "s": ["a", "b"], "w": [1, 3]}), tmp_path / "c.parquet")
    data = PointsFile(str(tmp_path / "c.parquet"), columns=("x",), weights="w")
    assert data.split("train").items.tolist() == [[1], [2]]
    assert data.weights_of("train").tolist() == [0.25, 0.75]


def test_the_weights_are_no_coordinate(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,mass,y\n1,2,3\n4,6,6\n")
    assert items(path, weights="mass").tolist() == [[1, 3], [4, 6]]


def test_a_byte_order_mark_blank_lines_and_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\n"x","y"\n\n"1","2.5"\n\n3,4\n\n', encoding="utf-8-sig")
    assert items(path).tolist() == [[1, 2.5], [3, 4]]


def test_the_index_that_pandas_writes_is_no_coordinate(tmp_path: Path) -> None:
    data = PointsFile(str(write(tmp_path / "a.csv", ",x\n0,1.5\n1,2.5\n")))
    assert data.split("train").items.tolist() == [[1.5], [2.5]]
    assert "counts the rows" in data.notes()[0]
    kept = write(tmp_path / "b.csv", ",x\n5,1.5\n1,2.5\n")
    assert items(kept).tolist() == [[5, 1.5], [1, 2.5]]


def test_lists_in_parquet_are_coordinates(tmp_path: Path) -> None:
    table = pyarrow.table({"embedding": [[1.0, 2.0], [3.0, 4.0]], "t": [5, 6]})
    parquet.write_table(table, tmp_path / "a.parquet")
    data = PointsFile(str(tmp_path / "a.parquet"))
    assert data.split("train").items.tolist() == [[1, 2, 5], [3, 4, 6]]
    assert data.coordinates == ("embedding[1]", "embedding[2]", "t")


def test_whole_numbers_become_real_ones_and_it_says_so(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[2, 3], [4, 5]], dtype=np.int16))
    data = PointsFile(str(tmp_path / "a.npy"))
    assert data.split("train").items.dtype == torch.float32
    assert data.notes() == ("a.npy: int16 read as real numbers",)
    data = PointsFile(str(write(tmp_path / "b.csv", "x,y\n1,2.5\n2,3.5\n")))
    assert data.notes() == ("b.csv: whole numbers in 'x', read as real numbers",)


def test_copies_and_lost_digits_are_said(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]))
    assert "2 of 4 points are copies of others" in PointsFile(str(tmp_path / "a.npy")).notes()[0]
    # Metres of a national grid: float32 knows them to half a metre.
    np.save(tmp_path / "b.npy", 5.4e6 + DRAWN[:, :2] / 1e3)
    assert "float32 rounds" in PointsFile(str(tmp_path / "b.npy")).notes()[0]
    assert not PointsFile(str(tmp_path / "b.npy"), dtype="float64").notes()
    np.testing.assert_array_equal(items(tmp_path / "b.npy"), 5.4e6 + DRAWN[:, :2] / 1e3)


def test_arrays_of_items_and_rows_in_another_shape(tmp_path: Path) -> None:
    images = np.random.default_rng(1).random((5, 1, 4, 6))
    np.save(tmp_path / "a.npy", images)
    np.testing.assert_array_equal(items(tmp_path / "a.npy"), images)
    np.savetxt(tmp_path / "b.csv", images.reshape(5, 24), delimiter=",", fmt="%.17g")
    np.testing.assert_array_equal(items(tmp_path / "b.csv", shape=(1, 4, 6)), images)
    refused(tmp_path / "b.csv", "24 numbers a row", "25", shape=(1, 5, 5))
    np.save(tmp_path / "c.npy", np.arange(3.0))
    assert items(tmp_path / "c.npy").tolist() == [[0], [1], [2]]


def test_splits_are_disjoint_stable_and_take_their_weights_along(tmp_path: Path) -> None:
    points = np.arange(40.0)
    np.save(tmp_path / "a.npy", np.stack([points, points + 1], axis=1))
    data = PointsFile(str(tmp_path / "a.npy"), columns=("1",), weights="2", test_fraction=0.25)
    parts = {name: data.split(name).items[:, 0].tolist() for name in data.splits}
    assert {name: len(part) for name, part in parts.items()} == {"train": 30, "test": 10}
    assert sorted(parts["train"] + parts["test"]) == points.tolist()
    assert parts["train"] == sorted(parts["train"])
    for name, part in parts.items():
        expected = np.array(part) + 1
        np.testing.assert_allclose(data.weights_of(name).numpy(), expected / expected.sum(), rtol=1e-12)
    again = PointsFile(str(tmp_path / "a.npy"), test_fraction=0.25)
    assert again.split("test").items[:, 0].tolist() == parts["test"]
    assert PointsFile(str(tmp_path / "a.npy")).splits == ("train",)


# ---- what is written back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["a.csv", "plain.csv", "a.tsv", "a.parquet", "a.npy", "a.npz"])
def test_mapped_points_are_read_back_to_the_bit(tmp_path: Path, name: str, dtype: Any) -> None:
    path = tmp_path / name
    header = "x" + ("\t" if name.endswith("tsv") else ";") + '"y, left"'
    if name.endswith(("csv", "tsv")):
        delimiter = header[1]
        np.savetxt(path, DRAWN[:, :2], delimiter=delimiter, header="" if "plain" in name else header, comments="")
    elif name.endswith("parquet"):
        parquet.write_table(pyarrow.table({"x": DRAWN[:, 0], "y, left": DRAWN[:, 1]}), path)
    else:
        np.save(path, DRAWN[:, :2]) if name.endswith("npy") else np.savez(path, points=DRAWN[:, :2])
    data = PointsFile(str(path), dtype=dtype)
    mapped = data.split("train").items / 3
    ((written, content),) = data.encode(mapped, "mapped")
    assert written == f"mapped{path.suffix}"
    (tmp_path / written).write_bytes(content)
    again = PointsFile(str(tmp_path / written), dtype=dtype)
    torch.testing.assert_close(again.split("train").items, mapped, rtol=0, atol=0)
    assert again.coordinates == data.coordinates
    if name in ("a.csv", "a.tsv"):
        # As a reader of another house sees it.
        first = next(csv.reader(io.StringIO(content.decode()), delimiter=header[1]))
        assert first == ["x", "y, left"]


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("is empty",)),
        ("\n \n", ("is empty",)),
        ("x,y\n", ("header and no rows",)),
        ("x,y\n1,2\n3,four\n", (":3", "column 'y'", "'four'", "no number")),
        ("x,y\n1,2\n3,\n", (":3", "column 'y' is empty")),
        ("x,y\n1,2\n3\n", (":3", "1 cell", "has 2")),
        ("x,y\n1,2\n3,4,5\n", (":3", "3 cells")),
        ("x,y\n1,2\n\n3,nan\n", (":4", "column 'y' is nan", "1 row,")),
        ("1,2\n-inf,3\nnan,nan\n", (":2", "column '1' is -inf", ":3", "2 rows")),
        ("x,kind\n1,cat\n2,dog\n", ("column 'kind'", 'columns = ["x"]')),
        ("x,x\n1,2\n", ("two columns called 'x'",)),
        ("1,2,three\n4,5,6\n", ("may be a header", "'three'", 'header = "no"')),
        ("x;y\n1,5;2,5\n", ("decimal comma",)),
        ("x y\n1 2\n", ("'1 2'", 'delimiter = " "')),
    ],
)
def test_a_bad_text_is_named_by_line_and_column(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    refused(write(tmp_path / "a.csv", text), *words)


def test_many_bad_cells_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    rows = [f"{number},{'?' if number % 3 == 0 else number}" for number in range(60)]
    said = refused(write(tmp_path / "a.csv", "x,y\n" + "\n".join(rows)), "the first 5 of 20")
    assert said.count("no number") == 5


def test_the_fast_and_the_careful_way_read_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,y,s\n" + "\n".join(f"{a!r},{b!r},t" for a, b, _ in DRAWN.tolist()))
    np.testing.assert_array_equal(items(path, columns=("x", "y")), DRAWN[:, :2])


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "height,width\n1,2\n")
    refused(path, "'heigth'", "Did you mean 'height'?", columns=("heigth",))
    refused(path, "'mass'", "height, width", weights="mass")
    refused(write(tmp_path / "b.csv", "1,2\n"), "no header", "1 to 2", columns=("x",))


@pytest.mark.parametrize(
    ("weights", "words"),
    [("1\n-2", (":3", "-2.0", "0 or more")), ("nan\n1", (":2", "nan")), ("0\n0", ("every weight", "is 0"))],
)
def test_weights_are_masses(tmp_path: Path, weights: str, words: tuple[str, ...]) -> None:
    first, second = weights.split("\n")
    refused(write(tmp_path / "a.csv", f"x,w\n1,{first}\n2,{second}\n"), *words, weights="w")


def test_zero_weights_are_legal(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,w\n1,0\n2,2\n")
    assert PointsFile(str(path), weights="w").weights_of("train").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([["a"]]), ("not real numbers",)),
        (np.array([1j]), ("complex",)),
        (np.array(3.0), ("single number",)),
        (np.zeros((0, 2)), ("(0, 2)",)),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), ("row 1", "column '1' is nan")),
        (np.array([object()]), ("never unpickles",)),
    ],
)
def test_arrays_that_are_no_points(tmp_path: Path, array: np.ndarray, words: tuple[str, ...]) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    refused(tmp_path / "a.npy", *words)


def test_archives_and_broken_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", first=DRAWN, second=DRAWN)
    refused(tmp_path / "a.npz", "holds 2 arrays", "first, second")
    refused(tmp_path / "a.npz", "no array 'third'", key="third")
    for name in ("b.npy", "b.npz", "b.parquet"):
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path / name, "empty, cut off")
    np.save(tmp_path / "whole.npy", DRAWN)
    (tmp_path / "c.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-20])
    refused(tmp_path / "c.npy", "cut off")
    (tmp_path / "d.csv").write_bytes((tmp_path / "whole.npy").read_bytes())
    refused(tmp_path / "d.csv", "not text but a NPY file")
    (tmp_path / "e.csv").write_bytes("größe\n1\n".encode("latin-1"))
    refused(tmp_path / "e.csv", ":1", "not UTF-8")


def test_parquet_columns_that_are_no_numbers(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"x": [1.0, 2.0], "s": ["a", "b"]}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "column 's' holds string", 'columns = ["x"]')
    parquet.write_table(pyarrow.table({"x": [1.0, None, None]}), tmp_path / "b.parquet")
    refused(tmp_path / "b.parquet", "row 1", "column 'x' has no value", "2 rows")
    parquet.write_table(pyarrow.table({"x": [[1.0], [1.0, 2.0]]}), tmp_path / "c.parquet")
    refused(tmp_path / "c.parquet", "several lengths")
    parquet.write_table(pyarrow.table({"x": pyarrow.array([], pyarrow.float64())}), tmp_path / "d.parquet")
    refused(tmp_path / "d.parquet", "no rows")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pyarrow.table({"x": [1.0]}), tmp_path / "a.parquet")
    real = builtins.__import__

    def missing(name: str, *rest: Any, **settings: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError("No module named 'pyarrow'")
        return real(name, *rest, **settings)

    monkeypatch.setattr(builtins, "__import__", missing)
    refused(tmp_path / "a.parquet", "needs pyarrow", 'pip install "atlas-datasets-builtin[parquet]"')


def test_files_that_are_not_there_or_not_ours(tmp_path: Path) -> None:
    write(tmp_path / "points.csv", "1\n")
    refused(tmp_path / "pionts.csv", "there is no file", "points.csv")
    refused(tmp_path / "nowhere" / "a.csv", "There is no folder")
    refused(tmp_path, "is a folder")
    refused(write(tmp_path / "a.cvs", "1\n"), "ends in .cvs", "Did you mean .csv?")
    refused(write(tmp_path / "a.xlsx", "1\n"), "Known: .csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1\n")
    path.chmod(0)
    refused(path, "cannot be read", "Permission")


def test_one_point_can_be_coupled_but_not_split(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1,2\n")
    assert items(path).tolist() == [[1, 2]]
    with pytest.raises(AtlasError, match="none can be held out"):
        PointsFile(str(path), test_fraction=0.5).split("train")
    assert PointsFile(str(path)).spec.std > 0


def test_numbers_beyond_float32(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1e300\n2\n")
    refused(path, "too large for float32", 'dtype = "float64"')
    assert items(path).tolist() == [[1e300], [2]]
