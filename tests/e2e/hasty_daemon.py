"""The real daemon, with settings from the environment, and less patience with its end, the cloud and pods."""

import os

from caa import daemon, logs
from caa.cli.common import until_signal
from caa.config import load
from caa.hypervisor import lifecycle
from caa.providers.alibabacloud import client

daemon._GRACE = 2.0
client.READ_TIMEOUT = 4.0
lifecycle._LOOK_EVERY, lifecycle._ABANDONED_AFTER = 0.2, 0.5

settings = load({}, os.environ)
logs.configure(settings.log_level, settings.log_format)
until_signal(daemon.run(settings), on_hangup=logs.toggle_debug)
