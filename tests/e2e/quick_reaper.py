"""The real reaper, with settings from the environment, at a pace that a test can wait for."""

import os

from caa import logs, reaper
from caa.cli.common import until_signal
from caa.config import load_reaper

settings = load_reaper({}, os.environ)
logs.configure(settings.log_level, settings.log_format)
until_signal(reaper.run(settings, every=0.3))
