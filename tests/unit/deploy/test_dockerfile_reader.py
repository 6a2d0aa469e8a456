"""What `make image-proof` understands of a Dockerfile, and what it refuses."""

from pathlib import PurePosixPath

import pytest

from deploy.proof.dockerfile import Ignore, Instruction, parse


def test_stages_with_their_bases_and_instructions() -> None:
    build, final = parse(
        "# a comment\nARG BASE=debian:13\nFROM ${BASE} AS build\nRUN one \\\n# between\n && two\n\n"
        'FROM other\nCOPY --from=build /a /b\nENTRYPOINT ["a", "b c"]\n'
    )
    assert (build.base, build.name) == ("debian:13", "build")
    assert build.instructions == [Instruction("RUN", "one  && two")]
    assert (final.base, final.name) == ("other", "")
    assert [instruction.words for instruction in final.instructions] == [
        ["--from=build", "/a", "/b"],
        ["a", "b c"],
    ]


def test_variables_that_are_not_set_are_nothing() -> None:
    label = Instruction("LABEL", 'version="${VERSION}" revision="$REVISION"')
    assert label.expanded({"VERSION": "1.0"}).words == ["version=1.0", "revision="]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "there is no FROM"),
        ("RUN true", "RUN true: not understood here"),
        ("FROM a\nHEALTHCHECK NONE", "HEALTHCHECK NONE: not understood here"),
        ("FROM a b", "only FROM image"),
        ("FROM a\nRUN true \\\n", "has no end"),
    ],
)
def test_what_is_not_understood_is_an_error(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text)


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("docs/install.md", True),
        ("caa", False),
        ("caa/cli/__init__.py", False),
        ("caa/cli/__pycache__/x.pyc", True),
        ("deploy/image/entrypoint.sh", False),
        ("deploy/image/README.md", True),
    ],
)
def test_the_last_pattern_that_matches_decides(path: str, ignored: bool) -> None:
    ignore = Ignore("# comment\n*\n!caa\n!deploy/image/entrypoint.sh\n**/__pycache__\n")
    assert ignore(PurePosixPath(path)) == ignored
