import pytest

from caa.config import load_reaper, reaper_options
from caa.errors import ConfigError


def test_the_daemons_environment_does() -> None:
    """It may be given the same ConfigMap, with all that it does not need."""
    settings = load_reaper(
        {}, {"REGION": "cn-hangzhou", "IMAGEID": "m-1", "VSWITCH_ID": "vsw-1", "TAGS": "not tags", "TLS": "?"}
    )
    assert settings.alibabacloud.region == "cn-hangzhou"
    assert settings.alibabacloud.image_id == ""
    assert (settings.grace, settings.node_grace, settings.dry_run) == (300.0, 1800.0, False)


def test_flags_go_before_the_environment() -> None:
    settings = load_reaper({"grace": "10m", "dry-run": "true"}, {"REAPER_GRACE": "1m", "PROBE_PORT": "9000"})
    assert (settings.grace, settings.dry_run, settings.probe_port) == (600.0, True, 9000)


def test_every_problem_is_told() -> None:
    with pytest.raises(ConfigError) as told:
        load_reaper({"max-share": "0"}, {"REAPER_GRACE": "5", "REAPER_PER_MINUTE": "none"})
    assert all(name in str(told.value) for name in ("--max-share", "REAPER_GRACE", "REAPER_PER_MINUTE"))


def test_each_option_is_given_once() -> None:
    flags = [option.flag for option in reaper_options()]
    assert len(flags) == len(set(flags))
    assert "vpc-endpoint" in flags
