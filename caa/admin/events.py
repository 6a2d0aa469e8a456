"""What the daemon's parts tell as they work, as events of a sandbox's timeline."""

import time

from caa.providers import CloudCall
from caa.sandbox import Event, Step


def of_step(step: Step) -> Event:
    return Event(time.time(), "step", words(step))


def of_call(call: CloudCall) -> Event:
    details = {"outcome": call.outcome, "seconds": f"{call.seconds:.3f}", "request id": call.request_id}
    return Event(call.began_at + call.seconds, "call", call.action, details)


def words(step: Step) -> str:
    return step.name.lower().replace("_", " ")
