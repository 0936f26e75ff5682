"""One matrix for all faults of the short form, and its table at the end of the run."""

from collections.abc import Iterator

import pytest

from benchmarks.faults.kinesis_local import chosen
from benchmarks.faults.matrix import Matrix
from popsteer.errors import SetupError

SEED = 3
LINE = "fault matrix"


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """A stage on which one fault follows another."""
    try:
        chosen(tmp_path_factory.mktemp("aws"))
    except SetupError as reason:
        pytest.skip(str(reason))
    with Matrix(tmp_path_factory.mktemp("faults"), SEED) as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what each fault came to, with its recovery time."""
    reports = [
        report
        for kind in ("passed", "failed")
        for report in terminalreporter.stats.get(kind, [])
        if isinstance(report, pytest.TestReport)
    ]
    lines = [
        str(text) for report in reports for name, text in report.user_properties if name == LINE
    ]
    if lines:
        terminalreporter.section(LINE)
    for line in lines:
        terminalreporter.write_line(line)
