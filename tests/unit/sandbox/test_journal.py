import asyncio
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from caa.errors import StartupError
from caa.sandbox import MOVES, RECOVERY, Journal, Sandbox, State
from caa.sandbox.schema import SCHEMA_VERSION

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
sandboxes = st.builds(
    Sandbox,
    id=st.text(min_size=1),
    pod_name=st.text(),
    pod_namespace=st.text(),
    netns=st.text(),
    name=st.text(),
    slot=st.integers(0, 2**24),
    boot_id=st.text(),
    state=st.sampled_from(State),
    network=st.dictionaries(st.text(), json_values),
    holding=st.dictionaries(st.text(), json_values),
    instance_id=st.text(),
    addresses=st.lists(st.text()).map(tuple),
    error=st.text(),
)


def a_sandbox(sandbox_id: str = "s1", slot: int = 0) -> Sandbox:
    return Sandbox(
        id=sandbox_id,
        pod_name="web",
        pod_namespace="default",
        netns="/run/netns/web",
        name=f"podvm-web-{sandbox_id}",
        slot=slot,
        boot_id="boot",
        state=State.CREATING,
        network={"podip": "10.0.0.5/24"},
        holding={"ClientToken": "t"},
    )


@settings(max_examples=25)  # each is a dozen nested values
@given(sandboxes)
def test_a_record_is_what_was_written(sandbox: Sandbox) -> None:
    assert Sandbox.from_json(sandbox.to_json()) == sandbox


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": "x", "surprise": 1}', "null"])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Sandbox.from_json(text)


@given(st.sampled_from(State), st.sampled_from(State))
def test_only_the_moves_of_the_table_are_possible(source: State, target: State) -> None:
    sandbox = a_sandbox().learn(state=source)
    if target in MOVES[source]:
        assert sandbox.move(target).state is target
    else:
        with pytest.raises(ValueError, match=f"from {source} to {target}"):
            sandbox.move(target)


def test_every_state_leads_to_the_end_and_has_a_recovery() -> None:
    assert set(MOVES) == set(RECOVERY) == set(State)
    for state in set(State) - {State.STOPPING}:
        assert State.STOPPING in MOVES[state]


def test_the_journal_outlives_its_daemon(tmp_path: Path) -> None:
    async def write() -> None:
        with Journal(tmp_path) as journal:
            await journal.put(a_sandbox("s1", 0))
            await journal.put(a_sandbox("s2", 1))
            await journal.put(a_sandbox("s1", 0).move(State.CREATED))
            await journal.forget("s2")

    asyncio.run(write())
    with Journal(tmp_path) as journal:
        assert journal.read() == [a_sandbox("s1", 0).move(State.CREATED)]


async def test_two_sandboxes_never_share_a_slot(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(a_sandbox("s1", 7))
        with pytest.raises(sqlite3.IntegrityError):
            await journal.put(a_sandbox("s2", 7))


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with Journal(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(StartupError, match=r"another daemon uses .*--state-dir"):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_a_newer_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    path = tmp_path / "journal.db"
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(StartupError, match="written by a newer caa"):
        Journal(tmp_path)
    assert path.read_bytes() == before


def _a_text_file(path: Path) -> None:
    path.write_text("this is not a database at all, and long enough to look at" * 20)


def _a_database_of_something_else(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE songs (title)")
    database.close()


@pytest.mark.parametrize("make", [_a_text_file, _a_database_of_something_else])
def test_what_is_no_journal_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "journal.db")
    with pytest.raises(StartupError, match=r"journal\.db"):
        Journal(tmp_path)


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"can't use the state folder .*file/state.*--state-dir"):
        Journal(tmp_path / "file" / "state")


def test_an_unreadable_record_is_named(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal._database.execute("INSERT INTO sandboxes VALUES ('s9', 0, '{}')")
        with pytest.raises(StartupError, match="sandbox s9"):
            journal.read()


class JournalAndMemory(RuleBasedStateMachine):
    """Whatever is done to it, the journal on disk equals a dict, also when it is opened anew in between."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._loop = asyncio.new_event_loop()
        self._journal = Journal(Path(self._folder.name))
        self._memory: dict[str, Sandbox] = {}

    @rule(number=st.integers(0, 5), data=st.data())
    def put(self, number: int, data: st.DataObject) -> None:
        known = self._memory.get(f"s{number}", a_sandbox(f"s{number}", number))
        moves = sorted(MOVES[known.state])
        sandbox = (
            known.move(data.draw(st.sampled_from(moves))) if f"s{number}" in self._memory and moves else known
        )
        self._loop.run_until_complete(self._journal.put(sandbox))
        self._memory[sandbox.id] = sandbox

    @precondition(lambda self: self._memory)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        sandbox_id = data.draw(st.sampled_from(sorted(self._memory)))
        self._loop.run_until_complete(self._journal.forget(sandbox_id))
        del self._memory[sandbox_id]

    @rule()
    def reopen(self) -> None:
        self._journal.close()
        self._journal = Journal(Path(self._folder.name))

    @invariant()
    def same(self) -> None:
        assert {sandbox.id: sandbox for sandbox in self._journal.read()} == self._memory

    def teardown(self) -> None:
        self._journal.close()
        self._loop.close()
        self._folder.cleanup()


TestJournalAndMemory = JournalAndMemory.TestCase
TestJournalAndMemory.settings = settings(max_examples=30)  # each waits for the disk many times
