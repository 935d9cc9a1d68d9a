"""Tables of clips: CSV files with a header."""

from __future__ import annotations

import csv
from pathlib import Path

from eventful.cli import one_line
from eventful.errors import UserError


def rows_of(path: Path, columns: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """The rows of a table, each with its place (for messages).

    Args:
        path: The CSV file.
        columns: Columns that it must have.

    Raises:
        UserError: If the file is missing or damaged, lacks a column, or has no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            names = reader.fieldnames or ()
            rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: it should be a table with the columns {', '.join(columns)}") from error
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(f"{path} has no column {missing[0]} (it has {', '.join(names) or 'nothing'})")
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows
