"""User state and timers in memory, with what changed since it was last saved."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from apache_beam.transforms import userstate
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.utils.timestamp import Timestamp

MESSAGES = "messages"
"""Stands for a step: which messages were taken in, see :mod:`beam_vision.streaming.local.seen`."""


class Cell(NamedTuple):
    """Where a value of user state stands; ``step`` is the step's label."""

    step: str
    key: Any
    window: Any
    name: str


class Due(NamedTuple):
    """A timer of a step's key and window."""

    step: str
    key: Any
    window: Any
    name: str
    tag: str
    domain: str


class Store:
    """All state of a job. Values are kept as they are given: they must never be changed afterwards.

    Attributes:
      ranks: where each step comes in the graph, by its label; timers of one time fire in that order.
    """

    def __init__(self) -> None:
        self.cells: dict[Cell, Any] = {}
        self.timers: dict[Due, int] = {}
        self.changed: set[Cell | Due] = set()
        self.ranks: dict[str, int] = {}
        self._heaps: dict[str, list[tuple[int, int, int, Due]]] = {
            TimeDomain.WATERMARK: [],
            TimeDomain.REAL_TIME: [],
        }
        self._order = itertools.count()

    def get(self, cell: Cell, default: Any = None) -> Any:
        """The value of a cell."""
        return self.cells.get(cell, default)

    def put(self, cell: Cell, value: Any) -> None:
        """Sets a cell."""
        self.cells[cell] = value
        self.changed.add(cell)

    def drop(self, cell: Cell) -> None:
        """Empties a cell."""
        if self.cells.pop(cell, None) is not None:
            self.changed.add(cell)

    def set_timer(self, due: Due, micros: int) -> None:
        """Sets a timer, in place of its earlier setting."""
        self.timers[due] = micros
        self.changed.add(due)
        heapq.heappush(self._heaps[due.domain], (micros, self.ranks.get(due.step, 0), next(self._order), due))

    def clear_timer(self, due: Due) -> None:
        """Takes a timer back."""
        if self.timers.pop(due, None) is not None:
            self.changed.add(due)

    def next_micros(self, domain: str) -> int | None:
        """When the next timer of a time domain is due, in microseconds since the epoch."""
        heap = self._heaps[domain]
        while heap and self.timers.get(heap[0][3]) != heap[0][0]:
            heapq.heappop(heap)  # it was set anew, or taken back
        return heap[0][0] if heap else None

    def take_due(self, domain: str, until_micros: int) -> tuple[int, Due] | None:
        """The next timer that is due until then, taken out; by time, then by the order of the steps."""
        micros = self.next_micros(domain)
        if micros is None or micros > until_micros:
            return None
        due = heapq.heappop(self._heaps[domain])[3]
        self.clear_timer(due)
        return micros, due

    def changes(self) -> list[tuple[Cell | Due, Any]]:
        """What changed since the last call: a cell's list of one value, a timer's time; None: it is gone."""
        found: list[tuple[Cell | Due, Any]] = []
        for name in self.changed:
            if isinstance(name, Due):
                found.append((name, self.timers.get(name)))
            else:
                found.append((name, [self.cells[name]] if name in self.cells else None))
        self.changed = set()
        return found

    def apply(self, changes: Iterable[tuple[Cell | Due, Any]]) -> None:
        """Makes the changes that another store gave; they don't count as changes of this one."""
        for name, value in changes:
            if isinstance(name, Due):
                if value is None:
                    self.timers.pop(name, None)
                else:
                    self.set_timer(name, value)
            elif value is None:
                self.cells.pop(name, None)
            else:
                self.cells[name] = value[0]
        self.changed = set()

    def everything(self) -> list[tuple[Cell | Due, Any]]:
        """All of it, as changes to an empty store."""
        cells: Iterator[tuple[Cell | Due, Any]] = ((name, [value]) for name, value in self.cells.items())
        return [*cells, *self.timers.items()]


class Context(userstate.UserStateContext):
    """What Beam's DoFnRunner asks for the state and the timers of one step."""

    def __init__(self, store: Store, step: str) -> None:
        self._store = store
        self._step = step

    def get_state(self, state_spec: Any, key: Any, window: Any) -> Any:
        """A handle on a cell."""
        return _HANDLES[type(state_spec)](
            self._store, Cell(self._step, key, window, state_spec.name), state_spec
        )

    def get_timer(self, timer_spec: Any, key: Any, window: Any, timestamp: Any, pane: Any) -> Any:
        """A handle on a timer."""
        return _Timer(self._store, Due(self._step, key, window, timer_spec.name, "", timer_spec.time_domain))

    def commit(self) -> None:
        """Nothing to do: handles write at once."""


class _Timer(userstate.BaseTimer):
    def __init__(self, store: Store, due: Due) -> None:
        self._store = store
        self._due = due

    def set(self, timestamp: Any, dynamic_timer_tag: str = "") -> None:
        self._store.set_timer(self._due._replace(tag=dynamic_timer_tag), Timestamp.of(timestamp).micros)

    def clear(self, dynamic_timer_tag: str = "") -> None:
        self._store.clear_timer(self._due._replace(tag=dynamic_timer_tag))


class _Handle:
    def __init__(self, store: Store, cell: Cell, spec: Any) -> None:
        self._store = store
        self._cell = cell
        self._spec = spec

    def clear(self) -> None:
        self._store.drop(self._cell)

    def prefetch(self) -> None:
        pass


class _Value(_Handle, userstate.ReadModifyWriteRuntimeState):
    def read(self) -> Any:
        return self._store.get(self._cell)

    def write(self, value: Any) -> None:
        self._store.put(self._cell, value)


class _Bag(_Handle, userstate.BagRuntimeState):
    def read(self) -> Any:
        return iter(self._store.get(self._cell, ()))

    def add(self, value: Any) -> None:
        self._store.put(self._cell, (*self._store.get(self._cell, ()), value))


class _Set(_Handle, userstate.SetRuntimeState):
    def read(self) -> Any:
        return self._store.get(self._cell, frozenset())

    def add(self, value: Any) -> None:
        self._store.put(self._cell, self._store.get(self._cell, frozenset()) | {value})


class _Combining(_Handle, userstate.CombiningValueRuntimeState):
    def read(self) -> Any:
        combine = self._spec.combine_fn
        return combine.extract_output(self._store.get(self._cell, combine.create_accumulator()))

    def add(self, value: Any) -> None:
        combine = self._spec.combine_fn
        before = self._store.get(self._cell, combine.create_accumulator())
        self._store.put(self._cell, combine.add_input(before, value))


_HANDLES: dict[type, Any] = {
    userstate.ReadModifyWriteStateSpec: _Value,
    userstate.BagStateSpec: _Bag,
    userstate.SetStateSpec: _Set,
    userstate.CombiningValueStateSpec: _Combining,
}
