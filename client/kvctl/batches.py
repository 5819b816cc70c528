"""What a file of records brings, whatever its format: numbered records, and what in it is none."""

from __future__ import annotations

from typing import NamedTuple

from kvctl.failures import EXIT_ERROR, EXIT_REFUSED, CtlError
from kvctl.limits import excess_of


class Fault(NamedTuple):
    """Something in the input that cannot be loaded."""

    number: int
    """The number of the line or record, from 1."""
    records: int
    """How many of them it stands for: a damaged block holds many."""
    code: str
    """``BAD_INPUT``, or the code with which a server refuses what is beyond a limit."""
    message: str

    def told(self, unit: str) -> str:
        """Return a sentence that names the place; ``unit`` is what the numbers count."""
        if self.records == 1:
            return f"{unit} {self.number}: {self.message}"
        return f"{unit}s {self.number} to {self.number + self.records - 1}: {self.message}"

    def as_error(self, unit: str) -> CtlError:
        """Return the error that ends an import here."""
        exit_code = EXIT_ERROR if self.code == "BAD_INPUT" else EXIT_REFUSED
        hint = "mend it, or leave such ones out with --on-error skip"
        return CtlError(self.code, self.told(unit), hint, exit_code, **{unit: self.number})


class Batch(NamedTuple):
    """Some records in the order of the input, as columns, and the faults among them."""

    numbers: list[int]
    """The number of each record."""
    keys: list[bytes]
    values: list[bytes]
    faults: list[Fault]
    last: int
    """The number that the batch reaches to; blank lines and faults count."""

    def add(self, number: int, key: bytes, value: bytes) -> None:
        """Take in a record, as a fault where it is beyond a limit."""
        excess = excess_of(len(key), len(value))
        if excess is not None:
            self.faults.append(Fault(number, 1, *excess))
            return
        self.numbers.append(number)
        self.keys.append(key)
        self.values.append(value)

    def before(self, number: int) -> Batch:
        """Return the part of it that stands before a line or record."""
        end = sum(1 for one in self.numbers if one < number)
        return Batch(self.numbers[:end], self.keys[:end], self.values[:end], [], number - 1)
