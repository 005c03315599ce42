"""Two arms on each of the reported examples, where their rows say what they are right on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pets.study.cells.rows import Row
from pets.study.statistics.paired import Array
from pets.study.statistics.setting import Setting


@dataclass(frozen=True)
class Right:
    """What each tuned PET of a table is right on.

    Attributes:
        known: by setting, arm and seed, of each reported example whether it was; those that say so.
    """

    known: Mapping[tuple[Setting, str, int], tuple[bool, ...]]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Right:
        """Of a table's rows, those without a score too.

        Raises:
            BadInput: if what a row says is not of as many examples as it was scored on.
        """
        told = {
            (Setting(row.task, row.shots, row.pet), row.arm, row.seed): row.right_on
            for row in rows
            if row.is_done
        }
        return cls({key: right for key, right in told.items() if right is not None})

    def apart(self, setting: Setting, arm: str, baseline: str, seeds: Sequence[int]) -> Array | None:
        """An arm minus a baseline on each example.

        Args:
            setting: where.
            arm, baseline: the two.
            seeds: that both have a score of.

        Returns:
            [seeds, examples], -1, 0 or 1; None if one of them is not known, or they are not all of the
            same number of examples.
        """
        ours, theirs = ([self.known.get((setting, a, seed)) for seed in seeds] for a in (arm, baseline))
        told = [right for right in (*ours, *theirs) if right is not None]
        if len(told) < 2 * len(seeds) or len({len(right) for right in told}) != 1:
            return None
        return np.array(ours, dtype=np.float64) - np.array(theirs, dtype=np.float64)
