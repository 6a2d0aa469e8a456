"""The real daemon, with settings from the environment, which dies by SIGKILL when a sandbox reaches a step.

python mortal_daemon.py STEP_NUMBER
"""

import asyncio
import os
import signal
import sys

from caa import daemon, logs
from caa.config import load
from caa.sandbox import Step

fatal = Step(int(sys.argv[1]))


def die_at_the_step(sandbox: str, step: Step) -> None:
    daemon.log_step(sandbox, step)
    if step is fatal:
        os.kill(os.getpid(), signal.SIGKILL)


settings = load({}, os.environ)
logs.configure(settings.log_level, settings.log_format)
asyncio.run(daemon.run(settings, on_step=die_at_the_step))
