"""The analyses in numbers, at the last layer: also of what has no picture."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from pets.study.report.analysis_groups import Group, Record, groups
from pets.study.report.document import Entry, RowGroup, Table, number, signed


def analysis_table(records: Sequence[Record]) -> Table:
    """Separability, the model's head and the distance to the end points, for every group and arm.

    Raises:
        BadInput: if a record lacks a field.
    """
    found = groups(records)
    readers = list(dict.fromkeys(record["reader"] for record in records))
    tables = [RowGroup(every.name, _lines(every, own, readers)) for every, own in found]
    caption = (
        "The last layer in numbers, means over seeds: accuracy of a linear probe and silhouette of the "
        "labels, the answer of the model's head, and by how much states are nearer to their own label's "
        "end point than to another, mean over labels."
    )
    nearer = [f"nearer to its own, read by {reader}" for reader in readers]
    columns = ("arm", "probe", "silhouette", "head", *nearer)
    return Table(caption, columns, tables)


def _lines(every: Group, by_reader: Sequence[Group], readers: Sequence[str]) -> list[list[Entry]]:
    read = {group.reader: group.arms for group in by_reader}
    lines = []
    for arm, records in every.arms.items():
        heads = [r["lens"]["score"][-1] for r in records if r["lens"]]
        cells = [
            Entry(arm),
            Entry(number(fmean(r["separability"]["probe"][-1] for r in records))),
            Entry(number(fmean(r["separability"]["silhouette"][-1] for r in records))),
            Entry(number(fmean(heads)) if heads else "-"),
        ]
        for reader in readers:
            own = [_nearer(record) for record in read.get(reader, {}).get(arm, [])]
            cells.append(Entry(signed(fmean(own)) if own else "-"))
        lines.append(cells)
    return lines


def _nearer(record: Record) -> float:
    margins = []
    for word, to_ends in record["distance"].items():
        others = [path[-1] for end, path in to_ends.items() if end != word]
        margins.append(min(others) - to_ends[word][-1])
    return fmean(margins)
