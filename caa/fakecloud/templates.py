"""Launch templates: parameters of RunInstances that are kept under a name."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from caa.fakecloud.clock import Clock
from caa.fakecloud.eni_orders import NAME
from caa.fakecloud.enis import ID_ALPHABET
from caa.fakecloud.errors import ApiError, missing
from caa.fakecloud.parameters import Parameters

_NAMING = ("LaunchTemplateId", "LaunchTemplateName", "LaunchTemplateVersion")
_SAME = {"SecurityGroupId": "SecurityGroupIds"}
"""Two ways to say one thing."""


@dataclass(frozen=True, kw_only=True)
class Template:
    id: str
    name: str
    created_at: float
    tags: Mapping[str, str] = field(default_factory=dict)
    versions: Sequence[Mapping[str, str]] = ()
    """The parameters of each; the first is number 1, and the default."""

    def version(self, number: str) -> Mapping[str, str]:
        """Raises ApiError if there is no such one. Nothing stands for the default one."""
        if not number:
            return self.versions[0]
        if not number.isdecimal() or not 1 <= int(number) <= len(self.versions):
            raise ApiError(
                404,
                "InvalidLaunchTemplateVersion.NotFound",
                f'The specified LaunchTemplateVersion "{number}" of "{self.name}" is not found.',
            )
        return self.versions[int(number) - 1]


class Templates:
    """All launch templates that there are."""

    def __init__(self, clock: Clock, templates: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """`templates` are to begin with: by name, their parameters."""
        self._clock = clock
        self._templates: dict[str, Template] = {}
        for name, parameters in (templates or {}).items():
            self.create(name, parameters)

    def __iter__(self) -> Iterator[Template]:
        """The oldest first."""
        return iter(tuple(self._templates.values()))

    def create(
        self, name: str, parameters: Mapping[str, str], tags: Mapping[str, str] | None = None
    ) -> Template:
        """With one version. Raises ApiError for a name that can't be, or is in use."""
        if not NAME.fullmatch(name):
            raise ApiError(
                400,
                "InvalidLaunchTemplateName.Malformed",
                "The specified parameter LaunchTemplateName is not valid.",
            )
        if any(each.name == name for each in self):
            raise ApiError(
                403,
                "LaunchTemplateName.Duplicated",
                f'The specified LaunchTemplateName "{name}" already exist.',
            )
        template = Template(
            id="lt-2ze" + "".join(secrets.choice(ID_ALPHABET) for _ in range(17)),
            name=name,
            created_at=self._clock.now(),
            tags=dict(tags or {}),
            versions=(dict(parameters),),
        )
        self._templates[template.id] = template
        return template

    def find(self, template_id: str, name: str) -> Template:
        """By one of them. Raises ApiError if there is none."""
        for template in self:
            if template_id == template.id or (not template_id and name == template.name):
                return template
        raise ApiError(
            404,
            "InvalidLaunchTemplate.NotFound",
            f'The specified LaunchTemplateId "{template_id}" LaunchTemplateName "{name}" is not found.',
        )

    def fill_in(self, parameters: Parameters) -> Parameters:
        """The parameters of RunInstances, with those of the template that they name, if they do, where they
        say nothing themselves. A list or an object counts as a whole (assumed; the API reference does not
        say).

        Raises ApiError if there is no such template or version.
        """
        template_id, name, number = map(parameters.text, _NAMING)
        own = {key: value for key, value in parameters.values.items() if key not in _NAMING}
        if not template_id and not name:
            if number:
                raise missing("LaunchTemplateId")
            return Parameters(own)
        version = self.find(template_id, name).version(number)
        said = {_first_word(key) for key in own}
        return Parameters({key: version[key] for key in version if _first_word(key) not in said} | own)


def _first_word(key: str) -> str:
    word = key.partition(".")[0]
    return _SAME.get(word, word)
