"""Settings come from the environment alone, all problems are told at once, and none of them shows a secret."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from fakes.webhook_receiver import OTHER_SECRET, SECRET

from quillgate_core.config import PREFIX, Config, ConfigError

CANARY = "hunter2"


def _problems(**environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        Config.from_environ(environ)
    assert CANARY not in str(caught.value)
    return caught.value.problems


def test_everything_has_a_default() -> None:
    """An empty environment is enough to start, on loopback, with an embedded database."""
    config = Config.from_environ({})
    assert config.data_dir == Path(".quillgate")
    assert config.database_url.reveal() == ""
    assert config.grpc_address == "127.0.0.1:8788"
    assert (config.config, config.pepper_file, config.master_key_file) == (None, None, None)
    assert config.master_key.reveal() == ""
    assert (config.max_completions, config.max_admin_calls, config.drain_s) == (1_024, 64, 60.0)
    assert config.unready_s == 0
    assert config.response_retention_days == 30
    assert (config.secrets_file, config.discovery_s) == (None, 3_600)
    assert (config.providers, config.webhook) == ((), None)
    assert config.catalogue.models


def test_every_setting_can_be_set(tmp_path: Path) -> None:
    """Each field is QUILLGATE_ and its name in capitals."""
    file = tmp_path / "q.toml"
    file.write_text("bundled = false")
    secrets = tmp_path / "secrets"
    secrets.touch(0o600)
    values: dict[str, Any] = {
        "data_dir": "/var/lib/q",
        "database_url": f"postgresql://q:{CANARY}@db/q",
        "grpc_address": "unix:/run/q.sock",
        "config": str(file),
        "secrets_file": str(secrets),
        "discovery_s": "0",
        "pepper_file": "~/pepper",
        "master_key_file": "~/master-key",
        "master_key": CANARY,
        "max_completions": "7",
        "max_admin_calls": "1000000",
        "response_retention_days": "7",
        "max_attempts": "3",
        "webhook_url": f"https://hooks.example/{CANARY}",
        "webhook_secret": SECRET,
        "webhook_secret_file": "~/webhook-secret",
        "unready_s": "2.5",
        "drain_s": "1.5",
    }
    assert set(values) == {field.name for field in dataclasses.fields(Config)} - {
        "catalogue",
        "providers",
        "byok_providers",
        "webhook",
    }
    config = Config.from_environ({PREFIX + name.upper(): value for name, value in values.items()})
    assert config.data_dir == Path("/var/lib/q")
    assert config.database_url.reveal() == values["database_url"]
    assert config.grpc_address == "unix:/run/q.sock"
    assert config.pepper_file == Path.home() / "pepper"
    assert config.master_key_file == Path.home() / "master-key"
    assert config.master_key.reveal() == CANARY
    assert (config.max_completions, config.max_admin_calls, config.drain_s) == (7, 1_000_000, 1.5)
    assert config.unready_s == 2.5
    assert (config.response_retention_days, config.max_attempts) == (7, 3)
    assert (config.secrets_file, config.discovery_s) == (secrets, 0)
    assert config.webhook is not None and config.webhook.url.reveal() == values["webhook_url"]
    assert config.webhook_secret_file == Path.home() / "webhook-secret"
    assert [model.id for model in config.catalogue.models] == ["quillgate/echo"]


def test_empty_is_not_set() -> None:
    """A variable that is there but empty leaves the default."""
    empty = {PREFIX + field.name.upper(): "" for field in dataclasses.fields(Config)}
    assert Config.from_environ(empty) == Config.from_environ({})


def test_providers_come_with_their_keys() -> None:
    """The usual variables switch providers on; printing the settings shows no secret."""
    config = Config.from_environ(
        {
            "OPENAI_API_KEY": CANARY,
            "QUILLGATE_DATABASE_URL": f"postgresql://q:{CANARY}@db/q",
            "QUILLGATE_MASTER_KEY": CANARY,
            "QUILLGATE_WEBHOOK_URL": f"https://hooks.example/{CANARY}",
            "QUILLGATE_WEBHOOK_SECRET": SECRET,
        }
    )
    (provider,) = config.providers
    assert provider.api_key is not None
    assert (provider.name, provider.api_key.reveal()) == ("openai", CANARY)
    assert CANARY not in repr(config) and SECRET not in repr(config)


@pytest.mark.parametrize("name", ["catalogue", "providers", "byok_providers", "webhook"])
def test_only_documented_settings_are_read(name: str) -> None:
    """What is derived from the file cannot be set past it."""
    assert Config.from_environ({PREFIX + name.upper(): CANARY}) == Config.from_environ({})


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Several bad variables and a bad file make one report, each by the name that the operator wrote."""
    problems = _problems(
        QUILLGATE_MAX_COMPLETIONS=CANARY,
        QUILLGATE_MAX_ADMIN_CALLS="0",
        QUILLGATE_DRAIN_S="-1",
        QUILLGATE_CONFIG=str(tmp_path / "none.toml"),
    )
    assert [problem.partition(":")[0] for problem in problems] == [
        "QUILLGATE_MAX_COMPLETIONS",
        "QUILLGATE_MAX_ADMIN_CALLS",
        "QUILLGATE_DRAIN_S",
        "QUILLGATE_CONFIG",
    ]


def test_bad_provider_variables_are_among_the_problems() -> None:
    """What is wrong with a provider's variables is told together with the rest."""
    problems = _problems(QUILLGATE_DRAIN_S="x", OPENAI_API_KEY=f"{CANARY}\n{CANARY}", OPENAI_BASE_URL=f"//{CANARY}")
    assert [problem.partition(":")[0] for problem in problems] == [
        "QUILLGATE_DRAIN_S",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
    ]


@pytest.mark.parametrize(
    ("variable", "values"),
    [
        ("QUILLGATE_MAX_COMPLETIONS", ["-1", "0", "1.5", "1000001", "many", "0x10"]),
        ("QUILLGATE_MAX_ADMIN_CALLS", ["0", "1000001"]),
        ("QUILLGATE_DRAIN_S", ["-0.1", "86400.5", "nan", "inf", "1m"]),
        ("QUILLGATE_DISCOVERY_S", ["-1", "86401", "hourly"]),
        ("QUILLGATE_RESPONSE_RETENTION_DAYS", ["-1", "0", "1.5", "3651", "for ever"]),
        ("QUILLGATE_PEPPER_FILE", ["~nobody-of-this-name/pepper"]),
    ],
)
def test_values_out_of_range_are_refused(variable: str, values: list[str]) -> None:
    """A number out of range, or none, and a path that cannot be, are told by their variable."""
    for value in values:
        (problem,) = _problems(**{variable: value})
        assert problem.startswith(f"{variable}: ")


@pytest.mark.parametrize("drain_s", ["0", "86400", "1e3"])
def test_limits_themselves_are_allowed(drain_s: str) -> None:
    """Both ends of a range belong to it."""
    assert Config.from_environ({"QUILLGATE_DRAIN_S": drain_s}).drain_s == float(drain_s)


def test_a_webhook_needs_a_secret() -> None:
    """Events are always signed: a URL alone is a problem, a secret alone waits for its URL."""
    (problem,) = _problems(QUILLGATE_WEBHOOK_URL=f"https://hooks.example/{CANARY}")
    assert problem == (
        "QUILLGATE_WEBHOOK_URL: needs a secret, in QUILLGATE_WEBHOOK_SECRET or QUILLGATE_WEBHOOK_SECRET_FILE"
    )
    assert Config.from_environ({"QUILLGATE_WEBHOOK_SECRET": SECRET}).webhook is None


def test_the_webhooks_secrets_may_be_in_a_file(tmp_path: Path) -> None:
    """One a line as well; others must not read it, and the variable wins."""
    path = tmp_path / "webhook-secret"
    path.write_text(f"{OTHER_SECRET}\n{SECRET}\n")
    path.chmod(0o600)
    environ = {"QUILLGATE_WEBHOOK_URL": "http://hooks", "QUILLGATE_WEBHOOK_SECRET_FILE": str(path)}

    def signatures(**more: str) -> int:
        webhook = Config.from_environ({**environ, **more}).webhook
        assert webhook is not None
        return len(webhook.signed_headers("m", send_time_s=1, body=b"")["webhook-signature"].split(" "))

    assert (signatures(), signatures(QUILLGATE_WEBHOOK_SECRET=SECRET)) == (2, 1)
    path.chmod(0o644)
    os.chown(path, os.geteuid() or 12_345, -1)
    (problem,) = _problems(**environ)
    assert problem.startswith("QUILLGATE_WEBHOOK_SECRET_FILE: others may read ")


def test_a_bad_webhook_is_among_the_problems() -> None:
    """What is wrong with the URL and the secret is told together with the rest, without repeating them."""
    problems = _problems(QUILLGATE_DRAIN_S="x", QUILLGATE_WEBHOOK_URL=CANARY, QUILLGATE_WEBHOOK_SECRET=CANARY)
    assert [problem.partition(":")[0] for problem in problems] == [
        "QUILLGATE_DRAIN_S",
        "QUILLGATE_WEBHOOK_URL",
        "QUILLGATE_WEBHOOK_SECRET",
    ]
