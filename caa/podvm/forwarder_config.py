"""The forwarder's config, `/run/peerpod/apf.json`.

Its reader may be a Go program of another version than ours, and so may its writer: optional keys are left
out rather than null, and keys that we do not know are ignored.
"""

import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from caa.errors import InvalidArgumentError
from caa.tunnel import PodNetwork

_OPTIONAL = ("tls_server_key", "tls_server_cert", "tls_client_ca", "tls_min_version", "tls_cipher_suites")


class ForwarderConfig(BaseModel):
    """What the forwarder of one pod VM is told. "" and () mean not set.

    Built from keywords, a wrong value raises pydantic's ValidationError (a ValueError), whose text leaves
    the values out because one of them is a private key.
    """

    model_config = ConfigDict(
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    pod_network: PodNetwork | None = None
    """None: the VM is not to join a pod's network."""
    pod_namespace: str
    pod_name: str
    tls_server_key: str = Field("", repr=False)
    tls_server_cert: str = ""
    """PEM, as the key is. Neither is set where TLS is off or the image has certificates of its own."""
    tls_client_ca: str = ""
    """PEM of the daemon's own client certificate: the only one that the forwarder is to trust."""
    tls_min_version: Literal["", "VersionTLS12", "VersionTLS13"] = ""
    tls_cipher_suites: tuple[str, ...] = ()
    """IANA names, for TLS 1.2 only."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.tls_cipher_suites and self.tls_min_version == "VersionTLS13":
            raise ValueError(
                "tls-cipher-suites are for TLS 1.2 only and can't go with tls-min-version VersionTLS13:"
                " leave one of them out"
            )
        if bool(self.tls_server_key) != bool(self.tls_server_cert):
            raise ValueError("tls-server-key and tls-server-cert go together: give both or neither")
        return self

    def to_json(self) -> str:
        """The file's text: keys by their names in the contract, none of them null."""
        unset = {name for name in _OPTIONAL if not getattr(self, name)}
        return self.model_dump_json(by_alias=True, exclude=unset, indent=2)

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """The config in a file's text. A null counts as absent, as it does for the Go writer's empty lists.

        Raises InvalidArgumentError that names every wrong key, and no value.
        """
        try:
            return cls.model_validate(json.loads(text, object_pairs_hook=_without_nulls))
        except ValidationError as error:
            problems = "; ".join(
                ": ".join(
                    filter(
                        None,
                        (".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")),
                    )
                )
                for problem in error.errors(include_url=False, include_context=False, include_input=False)
            )
            raise InvalidArgumentError(f"the forwarder config is not valid: {problems}") from None
        except (ValueError, RecursionError) as error:
            raise InvalidArgumentError(f"the forwarder config is not JSON: {error}") from None


def _without_nulls(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if value is not None}
