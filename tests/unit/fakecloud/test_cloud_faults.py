import pytest
from pydantic import ValidationError

from caa.fakecloud import Fault
from caa.fakecloud.faults import Faults


def _struck(faults: Faults, calls: int, action: str = "A") -> list[int]:
    return [n for n in range(1, calls + 1) if faults.strike(action, {})]


@pytest.mark.parametrize(
    ("fault", "struck"),
    [
        (Fault(action="A"), [1]),
        (Fault(action="*"), [1]),
        (Fault(action="B"), []),
        (Fault(action="A", nth=3), [3]),
        (Fault(action="A", times=2), [1, 2]),
        (Fault(action="A", nth=2, times=2), [2, 3]),
        (Fault(action="A", share=1), [1, 2, 3, 4, 5]),
        (Fault(action="A", share=1, times=2), [1, 2]),
    ],
)
def test_when_a_fault_strikes(fault: Fault, struck: list[int]) -> None:
    faults = Faults()
    faults.add(fault)
    assert _struck(faults, 5) == struck


def test_a_share_strikes_by_chance_and_the_same_each_time() -> None:
    runs = []
    for _ in range(2):
        faults = Faults()
        faults.add(Fault(share=0.3))
        runs.append(_struck(faults, 1000))
    assert runs[0] == runs[1]
    assert 200 < len(runs[0]) < 400


def test_a_fault_may_be_for_certain_calls_only() -> None:
    faults = Faults()
    faults.add(Fault(where={"InstanceType": "a", "ZoneId": "z"}))
    assert faults.strike("A", {"InstanceType": "b", "ZoneId": "z"}) is None
    assert faults.strike("A", {"InstanceType": "a"}) is None
    assert faults.strike("A", {"InstanceType": "a", "ZoneId": "z", "More": ""})


def test_one_call_meets_one_fault_but_all_count_it() -> None:
    faults = Faults()
    faults.add(Fault(code="first"))
    faults.add(Fault(code="second", nth=2))
    assert [fault.code for _ in range(3) if (fault := faults.strike("A", {}))] == ["first", "second"]
    assert list(faults) == []


def test_clear() -> None:
    faults = Faults()
    faults.add(Fault())
    faults.clear()
    assert _struck(faults, 3) == []


@pytest.mark.parametrize("wrong", ['{"nth": 0}', '{"share": 2}', '{"drop": "never"}', '{"typo": 1}', "[]"])
def test_a_wrong_order_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate_json(wrong)


def test_a_fault_per_client_strikes_each_first_try_and_no_second() -> None:
    faults = Faults()
    faults.add(Fault(action="A", per="ClientToken"))
    tries = ["t1", "t2", "t1", "t3", "t2", "t1"]
    struck = [bool(faults.strike("A", {"ClientToken": token})) for token in tries]
    assert struck == [True, True, False, True, False, False]
    assert len(list(faults)) == 1, "there may be another client"


def test_the_nth_call_of_each_client() -> None:
    faults = Faults()
    faults.add(Fault(action="A", per="ClientToken", nth=2, times=2))
    tries = ["t1", "t2", "t1", "t1", "t1", "t2"]
    assert [n for n, token in enumerate(tries) if faults.strike("A", {"ClientToken": token})] == [2, 3, 5]


def test_a_share_of_all_calls_is_chosen_however_often_each_client_tries() -> None:
    faults = Faults()
    faults.add(Fault(action="A", per="ClientToken", share=0.5, times=1))
    struck = [token for token in ("a", "b") * 50 if faults.strike("A", {"ClientToken": token})]
    assert sorted(struck) == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("Throttling", 400),
        ("Throttling.User", 400),
        ("ServiceUnavailable", 503),
        ("InternalError", 500),
        ("OperationDenied.NoStock", 403),
        ("IncorrectInstanceStatus.Initializing", 403),
        ("InvalidInstanceId.NotFound", 404),
        ("InvalidParameter", 400),
        ("", 400),
    ],
)
def test_a_code_has_its_usual_status(code: str, status: int) -> None:
    assert Fault(code=code).answer_status == status
    assert Fault(code=code, status=429).answer_status == 429
