"""Rules for the whole suite: no test is skipped in CI, and none leaves anything on the machine's network."""

import os
import subprocess
from collections.abc import Iterator

import hypothesis
import pytest

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root, for network namespaces"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables whose rows tests recorded: `record_property(title, {row: {column: cell}})`."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for title, rows in report.user_properties:
            tables.setdefault(title, {}).update(rows)
    for title, table in tables.items():
        columns = list(next(iter(table.values())))
        width = max(map(len, table))
        terminalreporter.section(title)
        terminalreporter.write_line(" " * width + "  " + "  ".join(columns))
        for row, cells in sorted(table.items()):
            line = "  ".join(cells[column].rjust(len(column)) for column in columns)
            terminalreporter.write_line(f"{row:{width}}  {line}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped") and session.exitstatus == 0:
        reporter.write_line("ERROR: tests were skipped, and in CI none may be", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def _network_is_left_as_found() -> Iterator[None]:
    before = _network()
    yield
    after = _network()
    left = {what: sorted(after[what] - before[what]) for what in after if after[what] - before[what]}
    assert not left, f"left on this machine's network: {left}"


def _network() -> dict[str, set[str]]:
    """Namespaces that this process named, and whatever is in the machine's own namespace: no test has to
    make anything there."""

    def words(*command: str) -> set[str]:
        try:
            listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:
            return set()
        return {line.split()[0] for line in listed.splitlines() if line.strip()}

    return {
        "namespaces": {name for name in words("ip", "netns", "list") if f"-{os.getpid()}" in name},
        "devices": words("ip", "-brief", "link"),
        "nft tables": words("nft", "list", "tables"),
    }
