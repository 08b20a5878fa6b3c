"""The facade's settings from the environment."""

import pytest

from quillgate_facade.config import FacadeConfig, FacadeConfigError


def test_defaults() -> None:
    """An empty environment gives the defaults, and other programs' variables are not looked at."""
    assert FacadeConfig.from_environ({"PATH": "/bin", "QUILLGATE_DATA_DIR": "x"}) == FacadeConfig()


def test_values() -> None:
    """Each kind of field is read from its variable."""
    config = FacadeConfig.from_environ(
        {
            "QUILLGATE_FACADE_HOST": "0.0.0.0",
            "QUILLGATE_FACADE_PORT": "0",
            "QUILLGATE_FACADE_DRAIN_TIMEOUT_S": "2.5",
            "QUILLGATE_FACADE_BODY_MAX_BYTES": "1000",
        }
    )
    assert (config.host, config.port, config.drain_timeout_s, config.body_max_bytes) == ("0.0.0.0", 0, 2.5, 1000)


def test_all_problems_at_once() -> None:
    """Everything that is wrong is reported together, one sentence each, without the values."""
    with pytest.raises(FacadeConfigError) as raised:
        FacadeConfig.from_environ(
            {
                "QUILLGATE_FACADE_PORT": "70000",
                "QUILLGATE_FACADE_HOST": " ",
                "QUILLGATE_FACADE_BODY_MAX_BYTES": "1.5",
                "QUILLGATE_FACADE_IDLE_TIMEOUT_S": "nan",
                "QUILLGATE_FACADE_BODY_TIMEOUT_S": "soon",
                "QUILLGATE_FACADE_POTR": "1",
            }
        )
    assert raised.value.problems == [
        "QUILLGATE_FACADE_BODY_MAX_BYTES: it must be a whole number.",
        "QUILLGATE_FACADE_BODY_TIMEOUT_S: it must be a number.",
        "QUILLGATE_FACADE_HOST: it must not be empty.",
        "QUILLGATE_FACADE_IDLE_TIMEOUT_S: it must be from 0.001 to 1000000000.",
        "QUILLGATE_FACADE_PORT: it must be from 0 to 65535.",
        "QUILLGATE_FACADE_POTR: there is no such setting.",
    ]


def test_every_setting_is_described() -> None:
    """Each field has a variable, a default and a sentence."""
    settings = list(FacadeConfig.describe())
    assert len(settings) == len({setting.variable for setting in settings}) == 19
    assert all(setting.purpose.endswith(".") for setting in settings)
