"""How many injected faults a training survived."""

from dataclasses import dataclass


@dataclass
class Score:
    """How often a fault was injected, and how often the result was that of a run without it.

    Args:
        injected: number of faults.
        survived: number of faults after which everything was as without them.
        note: shown at the end of the row.
    """

    injected: int = 0
    survived: int = 0
    note: str = ""

    def row(self, name: object) -> str:
        """A line of the table."""
        return f"{name!s:<36} {self.injected:>8} {self.survived:>8}  {self.note}"
