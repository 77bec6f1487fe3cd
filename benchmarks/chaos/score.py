"""How many injected faults a training survived."""

from dataclasses import dataclass


@dataclass
class Score:
    """How often a fault was injected, and how often the result was that of a run without it.

    Args:
        injected: number of faults.
        survived: number of faults after which everything was as without them.
        before_state: number of kills before the first state.
        note: shown at the end of the row.
    """

    injected: int = 0
    survived: int = 0
    before_state: int = 0
    note: str = ""

    def row(self, name: object) -> str:
        """A line of the table."""
        early = f"{self.before_state} before the first state" if self.before_state else ""
        return f"{name!s:<36} {self.injected:>8} {self.survived:>8}  {early or self.note}"
