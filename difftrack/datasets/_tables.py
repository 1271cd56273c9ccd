"""Read tables of numbers that people and spreadsheets save: CSV in UTF-8, separated by commas, semicolons or tabs."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from difftrack.datasets._errors import DatasetError

__all__ = ["read_table"]

_SEPARATORS = (",", ";", "\t")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Read the rows of a table whose first line names its columns, in any order and case.

    The separator is the one that splits the first line into the columns. Where that is a semicolon, a comma in a
    number is its decimal sign, as spreadsheets save it in many countries. Blank rows do not count.

    Args:
        path: The file.
        columns: Columns that the table must have; it may have others.

    Yields:
        The number of a row's line, and column -> cell; a cell that is missing is empty.

    Raises:
        DatasetError: the file cannot be read, lacks a column or has it twice, or a row has more cells than columns.
    """
    expected = f"expected {', '.join(columns)}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            first = file.readline()
            heads = {separator: _names(next(csv.reader([first], delimiter=separator), [])) for separator in _SEPARATORS}
            separator = next((each for each in _SEPARATORS if set(columns) <= set(heads[each])), ",")
            names = heads[separator]
            if missing := [column for column in columns if column not in names]:
                raise DatasetError(
                    f"{path}: has no column {missing[0]}; {expected}; columns are {', '.join(names) or 'none'}"
                )
            if twice := [name for name in names if name and names.count(name) > 1]:
                raise DatasetError(f"{path}: has the column {twice[0]} twice; {expected}, each once")
            reader = csv.reader(file, delimiter=separator)
            for row in reader:
                cells = [_plain(cell, separator) for cell in row]
                if any(cells[len(names) :]):
                    raise DatasetError(
                        f"{path}, line {1 + reader.line_num}: has {len(cells)} cells for {len(names)} columns; write "
                        "decimals with a point, or separate cells by semicolons"
                    )
                if any(cells):
                    padded = cells + [""] * (len(names) - len(cells))
                    yield 1 + reader.line_num, dict(zip(names, padded, strict=False))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read as a table in UTF-8 ({error})") from error


def _plain(cell: str, separator: str) -> str:
    cell = cell.strip()
    return cell.replace(",", ".") if separator == ";" and _DECIMAL_COMMA.fullmatch(cell) else cell


def _names(cells: Sequence[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]
