"""What a protobuf service says about its methods, and how an implementation is joined to it.

An implementation is any object with a coroutine method (or, where the server streams, an async generator) for
each RPC, by the RPC's own name and with the arguments `(request, context)`. Where the client streams, the
request is an async iterator of messages. An implementation knows nothing of the protocol that carries the
call, so that it can serve several.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

Handler = Callable[[Any, "CallContext"], Any]
"""Returns an awaitable of the response, or an async iterator of responses where the server streams."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a handler may know of its call besides the request.

    `metadata` has keys in lower case. `deadline` is in the event loop's time, None where the caller set none;
    a handler need not watch it, since it is cancelled then.
    """

    metadata: Mapping[str, Sequence[str]]
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC of a service, as its descriptor has it."""

    service: str
    """Full name, for example `hypervisor.Hypervisor`."""
    name: str
    request_class: type[Message]
    response_class: type[Message]
    client_streaming: bool
    server_streaming: bool

    def __str__(self) -> str:
        return f"{self.service}/{self.name}"


def methods(service: ServiceDescriptor) -> tuple[Method, ...]:
    return tuple(
        Method(
            service=service.full_name,
            name=method.name,
            request_class=GetMessageClass(method.input_type),
            response_class=GetMessageClass(method.output_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
        )
        for method in service.methods
    )


def bind(service: ServiceDescriptor, implementation: object) -> dict[str, tuple[Method, Handler]]:
    """The methods of `service` that `implementation` has, by name.

    Calls of those that it lacks are to be answered with UNIMPLEMENTED. Raises TypeError if it has none.
    """
    bound = {
        method.name: (method, getattr(implementation, method.name))
        for method in methods(service)
        if callable(getattr(implementation, method.name, None))
    }
    if not bound:
        raise TypeError(f"{type(implementation).__name__} has no method of the service {service.full_name}")
    return bound
