"""What events are signed with: the specification's own example, several secrets, and every secret that is none."""

import base64

import pytest

from quillgate_core.catalogue_file import ConfigError
from quillgate_core.secret import Secret
from quillgate_core.webhook_target import MAX_SECRETS, WebhookTarget

URL = "https://hooks.example/path?token=hunter2"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
"""Of the reference implementations' tests: the message below, signed with the secret."""


def target(*secrets: str, url: str = URL) -> WebhookTarget:
    """A target with some secrets."""
    return WebhookTarget(Secret(url), Secret(" ".join(secrets)))


def problems(*secrets: str, url: str = URL) -> tuple[str, ...]:
    """Why there is no such target; the URL may not be repeated."""
    with pytest.raises(ConfigError) as caught:
        target(*secrets, url=url)
    assert "hunter2" not in str(caught.value)
    return caught.value.problems


def signed(target: WebhookTarget) -> dict[str, str]:
    """The headers of the reference's message."""
    body = b'{"test": 2432232314}'
    return target.signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", send_time_s=1614265330, body=body)


def secret_of(size: int) -> str:
    """A secret of so many bytes."""
    return "whsec_" + base64.b64encode(bytes(size)).decode()


def test_it_signs_as_the_reference_does() -> None:
    """The headers of a message are those of the reference implementations."""
    assert signed(target(SECRET)) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


def test_every_secret_signs() -> None:
    """While a secret is changed, the receiver finds a signature with the old and one with the new."""
    first, second = signed(target(secret_of(32), SECRET))["webhook-signature"].split(" ")
    assert (first == SIGNATURE, second) == (False, SIGNATURE)
    assert signed(target(SECRET, secret_of(32)))["webhook-signature"] == f"{second} {first}"


def test_it_prints_nothing() -> None:
    """Neither the URL nor a secret is in what is logged of a target."""
    assert "hunter2" not in f"{target(SECRET)!r} {target(SECRET)}"
    assert target(SECRET).url.reveal() == URL


@pytest.mark.parametrize("size", [24, 64])
def test_a_secret_has_24_to_64_bytes(size: int) -> None:
    """Both ends of the range belong to it."""
    assert signed(target(secret_of(size)))["webhook-signature"].startswith("v1,")


@pytest.mark.parametrize(
    "bad",
    [
        secret_of(23),
        secret_of(65),
        "whsec_",
        "whsec_!!!!",
        SECRET[:-1],
        SECRET.removeprefix("whsec_"),
        "whpk_" + SECRET.removeprefix("whsec_"),
        "whsec_ä",
    ],
)
def test_what_is_no_secret_is_told_by_its_place(bad: str) -> None:
    """Too short, too long, without its prefix or no base64: told without the secret."""
    problem = "is not whsec_ and the base64 of 24 to 64 bytes"
    assert problems(SECRET, bad) == (f"QUILLGATE_WEBHOOK_SECRET: secret 2 {problem}",)


def test_the_number_of_secrets_is_bounded() -> None:
    """1 to 8 of them; each makes every header longer."""
    assert problems("") == ("QUILLGATE_WEBHOOK_SECRET: must hold 1 to 8 secrets with spaces between them",)
    assert len(signed(target(*[SECRET] * MAX_SECRETS))["webhook-signature"].split(" ")) == MAX_SECRETS
    assert len(problems(*[SECRET] * (MAX_SECRETS + 1))) == 1


@pytest.mark.parametrize("url", ["http://10.1.2.3", "https://hooks.example:8443/a?b=c", "http://[::1]:9/"])
def test_the_operators_url_may_be_plain_and_private(url: str) -> None:
    """It is trusted as his providers are."""
    assert target(SECRET, url=url).url.reveal() == url


@pytest.mark.parametrize(
    "url", ["hunter2", "//hunter2/", "ftp://hunter2/", "https:///hunter2", "https://hunter2:99999", "http://[hunter2/"]
)
def test_what_is_no_url_is_refused_without_repeating_it(url: str) -> None:
    """A URL often holds a token, so that a problem does not repeat it."""
    assert problems(SECRET, url=url) == ("QUILLGATE_WEBHOOK_URL: must be an http or https URL with a host",)


def test_a_url_has_printed_characters_only() -> None:
    """A line break or a space in it is a mistake of whoever pasted it."""
    assert problems(SECRET, url="https://hooks.example/hunter2\nx") and problems(SECRET, url="https://h ooks.example/")
