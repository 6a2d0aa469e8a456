import time

import pytest

from caa.redaction import hide_secrets, names_a_secret


@pytest.mark.parametrize(
    "text",
    [
        "a/" * 4096,
        "-a" * 4096,
        "token" * 1600,
        "token" + " " * 8000,
        "secret/" * 1100 + ":",
        "'token': '" * 800,
        "://a@" * 1600,
        "-----BEGIN " * 740,
        "-----BEGIN PRIVATE KEY-----" * 300,
    ],
    ids=lambda text: text[:12],
)
def test_no_text_takes_much_longer_than_another(text: str) -> None:
    def seconds(text: str) -> float:
        began = time.process_time()
        hide_secrets(text)
        return time.process_time() - began

    plain = min(seconds("just some words, " * (len(text) // 17)) for _ in range(3))
    assert min(seconds(text) for _ in range(3)) < 100 * plain + 0.01


@pytest.mark.parametrize("name", ["registry-password", "AWS_SECRET_ACCESS_KEY", "io.example/authToken"])
def test_names_of_secrets(name: str) -> None:
    assert names_a_secret(name)


@pytest.mark.parametrize("name", ["app", "io.kubernetes.cri.sandbox-name", ""])
def test_names_of_other_things(name: str) -> None:
    assert not names_a_secret(name)
