"""Print the measured rates after the tests of the full size."""

import pytest
from rates import FULL, MEASURED, summary


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter):
    """Print each rate, and a Markdown table with a row for each decision and distribution."""
    if MEASURED:
        terminalreporter.section(f"error rates of {FULL} tables each")
        rows = [f"{share:6.1%} (nominal {rate.nominal:.1%})  {rate}" for rate, share in MEASURED]
        terminalreporter.write_line("\n".join([*rows, "", *summary(MEASURED)]))
