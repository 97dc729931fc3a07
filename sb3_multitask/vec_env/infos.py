"""The infos of a step: a list with the rows whose episode ended, made on demand if possible."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, wraps
from itertools import accumulate
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]


class StepInfos(list[dict[str, Any]]):
    """The infos of a step, and the rows whose episode ended, which the backend finds once for all layers above it.

    It is copied and pickled as a plain list.

    :param infos: one for each row
    :param ended: rows whose episode ended, ascending
    """

    def __init__(self, infos: Iterable[dict[str, Any]], ended: list[int]) -> None:
        super().__init__(infos)
        self.ended = ended

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(iter(self)),)


def ended_rows(dones: np.ndarray, infos: Sequence[dict[str, Any]]) -> list[int]:
    """Return the rows of a step whose episode ended, ascending.

    They come from the infos if these have them, unless a wrapper has changed ``dones`` since.

    :param dones: (n_rows,) bool
    :param infos: as the same ``step`` returned them
    """
    if isinstance(infos, StepInfos) and len(infos.ended) == np.count_nonzero(dones):
        return infos.ended
    rows: list[int] = np.asarray(dones).nonzero()[0].tolist()
    return rows


@cache
def _nothing(n_rows: int) -> tuple[dict[str, Any], ...]:
    return ({},) * n_rows


class LazyInfos(StepInfos):
    """Infos that are made when they are read: most are never read.

    Whatever else is asked of a list makes all of them first.

    :param n_rows: number of infos
    :param ended: rows whose episode ended
    """

    def __init__(self, n_rows: int, ended: list[int]) -> None:
        super().__init__(_nothing(n_rows), ended)
        self._made: set[int] = set()

    def _make(self, row: int) -> dict[str, Any]:
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        row = range(len(self))[index]
        if row not in self._made:
            self[row] = self._make(row)
        return super().__getitem__(row)

    def __setitem__(self, index: Any, info: Any) -> None:
        if isinstance(index, slice):
            self._make_all()
            self[index] = info
            return
        row = range(len(self))[index]
        self._made.add(row)
        super().__setitem__(row, info)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __reversed__(self) -> Iterator[dict[str, Any]]:
        return iter(list(self)[::-1])

    def __add__(self, other: Any) -> list[Any]:
        return list(iter(self)) + list(other)

    def __radd__(self, other: Any) -> list[Any]:
        return list(other) + list(iter(self))

    def copy(self) -> list[dict[str, Any]]:
        return list(iter(self))

    def _make_all(self) -> None:
        made = list(iter(self))
        self.__class__ = StepInfos  # type: ignore[assignment]  # a list like any other from now on
        self[:] = made


def _of_all_infos(name: str) -> Callable[..., Any]:
    """A method of lists that reads the list's memory, where infos that nobody has read are empty."""
    of_list = getattr(list, name)

    @wraps(of_list)
    def method(infos: LazyInfos, *args: Any, **kwargs: Any) -> Any:
        for lazy in (infos, *args):
            if isinstance(lazy, LazyInfos):
                lazy._make_all()
        return of_list(infos, *args, **kwargs)

    return method


for _name in (
    *("__contains__", "__delitem__", "__eq__", "__iadd__", "__imul__", "__mul__", "__ne__", "__repr__", "__rmul__"),
    *("append", "clear", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"),
):
    setattr(LazyInfos, _name, _of_all_infos(_name))


class ColumnInfos(LazyInfos):
    """Infos made from one array for each of their keys.

    :param n_rows: number of infos
    :param columns: makes the arrays, (n_rows, ...) each
    :param ended: rows whose episode ended
    """

    def __init__(self, n_rows: int, columns: Callable[[], Columns], ended: list[int]) -> None:
        super().__init__(n_rows, ended)
        self._columns: Columns | Callable[[], Columns] = columns

    def columns(self) -> Columns:
        """Return the arrays, which the first call makes."""
        if callable(self._columns):
            self._columns = self._columns()
        return self._columns

    def _make(self, row: int) -> dict[str, Any]:
        info: dict[str, Any] = {name: column[row] for name, column in self.columns().items()}
        info["TimeLimit.truncated"] = False
        return info


class JoinedInfos(LazyInfos):
    """The infos of several parts of the rows, one after the other.

    :param parts: infos of each
    """

    def __init__(self, parts: Sequence[StepInfos]) -> None:
        *starts, n_rows = accumulate(map(len, parts), initial=0)
        super().__init__(n_rows, [start + i for start, part in zip(starts, parts, strict=True) for i in part.ended])
        self._starts, self._parts = starts, parts

    def _make(self, row: int) -> dict[str, Any]:
        k = bisect_right(self._starts, row) - 1
        info: dict[str, Any] = self._parts[k][row - self._starts[k]]
        return info
