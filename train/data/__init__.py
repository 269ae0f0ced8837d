"""Text for training and evaluation, labelled or plain: rows, readers, checks, preprocessing. No torch."""

from train.data.checks import check_rows
from train.data.preprocessing import Preprocessing, Report, preprocess
from train.data.reading import MAX_ROW_BYTES, parse_row, read_rows, suffixes
from train.data.rows import DataError, Kind, Label, LabelRow, Problem, Row, TextRow, UtteranceRow
from train.data.splitting import split_rows

__all__ = [
    "MAX_ROW_BYTES",
    "DataError",
    "Kind",
    "Label",
    "LabelRow",
    "Preprocessing",
    "Problem",
    "Report",
    "Row",
    "TextRow",
    "UtteranceRow",
    "check_rows",
    "parse_row",
    "preprocess",
    "read_rows",
    "split_rows",
    "suffixes",
]
