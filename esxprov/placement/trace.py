"""Hosts and requests of a simulation, as CSV. What cannot be read is named by its line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from esxprov.model import HostKey
from esxprov.placement.host import HostState
from esxprov.placement.request import PlacementRequest
from esxprov.placement.snapshot import Size

HOST_COLUMNS = ("host", "cpus", "ram_mb")
REQUEST_COLUMNS = ("time_s", "duration_s", "request", "vm", "cpus", "ram_mb", "max_per_host")
CATALOGUE_COLUMNS = ("cpus", "ram_mb")

_MOST = 2**31


class TraceError(ValueError):
    """A file that cannot be used; one sentence that names file and line."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """VMs that are asked for together. `ends_s` by VM, infinite for one that stays."""

    name: str
    time_s: float
    vms: tuple[str, ...]
    requests: tuple[PlacementRequest, ...]
    ends_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """One line, to be read column by column."""

    file: str
    line: int
    cells: dict[str, str]

    def text(self, column: str) -> str:
        value = self.cells[column].strip()
        if not value:
            raise self.wrong(f"{column} is empty")
        return value

    def whole(self, column: str) -> int:
        value = self.text(column)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (1 <= number <= _MOST and number == int(number)):
            raise self.wrong(f"{column} is {value!r}, expected a whole number of at least 1")
        return int(number)

    def seconds(self, column: str) -> float:
        value = self.text(column)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise self.wrong(f"{column} is {value!r}, expected seconds, 0 or more")
        return number

    def is_empty(self, column: str) -> bool:
        return not self.cells[column].strip()

    def wrong(self, what: str) -> TraceError:
        return TraceError(f"{self.file} line {self.line}: {what}")


def hosts(lines: Iterable[str], file: str) -> list[HostState]:
    """Hosts with all they may promise: no reserve, no ratio. Raises TraceError."""
    made: dict[str, HostState] = {}
    for row in _rows(lines, file, HOST_COLUMNS):
        name = row.text("host")
        if name in made:
            raise row.wrong(f"host {name!r} is there twice")
        made[name] = HostState(
            key=HostKey("", name),
            name=name,
            state="connected",
            maintenance=False,
            ram_mb=row.whole("ram_mb"),
            ram_used_mb=0,
            reserved_ram_mb=0,
            ram_ratio=1.0,
            cpu_threads=row.whole("cpus"),
            cpu_ratio=1.0,
        )
    return list(made.values())


def arrivals(lines: Iterable[str], file: str) -> list[Arrival]:
    """Requests in the order of their time; rows of one request belong together. Raises TraceError."""
    rows: dict[str, list[_Row]] = {}
    vms: set[str] = set()
    before = 0.0
    for row in _rows(lines, file, REQUEST_COLUMNS):
        time_s, name, vm = row.seconds("time_s"), row.text("request"), row.text("vm")
        if time_s < before:
            raise row.wrong(f"time_s is {time_s:g}, before {before:g} of the line above: sort the file by time_s")
        if vm in vms:
            raise row.wrong(f"vm {vm!r} is there twice")
        members = rows.setdefault(name, [])
        if members and members[0].seconds("time_s") != time_s:
            raise row.wrong(f"request {name!r} came at {members[0].text('time_s')}, all its rows need that time_s")
        members.append(row)
        vms.add(vm)
        before = time_s
    return [_arrival(name, members) for name, members in rows.items()]


def catalogue(lines: Iterable[str], file: str) -> list[Size]:
    """Sizes of the images still to come; a column `images` (or `weight`) says how many are like that.

    Raises TraceError.
    """
    sizes = []
    for row in _rows(lines, file, CATALOGUE_COLUMNS):
        count = next((column for column in ("images", "weight") if column in row.cells), None)
        sizes.append(Size(row.whole("ram_mb"), row.whole("cpus"), row.whole(count) if count else 1))
    if not sizes:
        raise TraceError(f"{file} has no line below its header: leave --catalogue out, or say which sizes there are")
    return sizes


def _arrival(name: str, rows: list[_Row]) -> Arrival:
    time_s = rows[0].seconds("time_s")
    ends_s = [math.inf if row.is_empty("duration_s") else time_s + row.seconds("duration_s") for row in rows]
    limits = [row.whole("max_per_host") for row in rows if not row.is_empty("max_per_host")]
    most = min(limits) if limits else None
    return Arrival(
        name,
        time_s,
        tuple(row.text("vm") for row in rows),
        tuple(
            PlacementRequest(
                row.text("vm"),
                row.whole("ram_mb"),
                row.whole("cpus"),
                group=name,
                max_per_host=most,
                ends_at=None if end_s == math.inf else math.ceil(end_s),
            )
            for row, end_s in zip(rows, ends_s, strict=True)
        ),
        tuple(ends_s),
    )


def _rows(lines: Iterable[str], file: str, columns: tuple[str, ...]) -> Iterator[_Row]:
    reader = csv.DictReader(lines, strict=True)
    try:
        header = reader.fieldnames or []
        missing = [column for column in columns if column not in header]
        if missing:
            raise TraceError(f"{file} line 1: there is no column {missing[0]!r}, expected {','.join(columns)}")
        for cells in reader:
            row = _Row(file, reader.line_num, cells)
            if None in cells or None in cells.values():
                raise row.wrong(f"it has another number of columns than the header, which is {','.join(header)}")
            yield row
    except csv.Error as error:
        raise TraceError(f"{file} line {reader.line_num + 1}: {error}") from error
