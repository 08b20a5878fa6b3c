"""Accounts: what of a provider can be asked, and how a refused key is told to whom it belongs."""

from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.provider_site import REQUEST, ProviderSite
from fakes.scripted_upstream import ScriptedAnswer, Step, json_answer, sse_answer

from quillgate.v1.transcription_pb2 import TranscriptionOptions
from quillgate_core.catalogue_file import OnHangUp, Protocol, ProviderConfig, ProviderEntry
from quillgate_core.errors import ProviderCredentialRejected, ProviderTimeout, ProviderUnavailable, QuillgateError
from quillgate_core.providers.accounts import make_account
from quillgate_core.secret import Secret
from quillgate_core.upstream import Account, TranscriptionTask

_SILENT = ScriptedAnswer(before=[Step.HANG])
REFUSED = {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}


def account(site: ProviderSite, *, byok: bool) -> Account:
    """An account at the site that speaks every endpoint."""
    config = ProviderConfig(
        "fake", site.upstream.base_url, Secret("k-42"), is_trusted=True, max_in_flight=3,
        native_endpoints=frozenset({"chat.completions", "completions", "responses"}),
    )  # fmt: skip
    return make_account(config, site.pool, byok=byok)


async def ask(account: Account, endpoint: str, sound: Path) -> None:
    """Asks one endpoint once."""
    if endpoint == "transcription":
        assert account.transcriptions is not None
        task = TranscriptionTask(sound, TranscriptionOptions(response_format="json"), "m")
        await account.transcriptions.create_transcription(task)
        return
    assert account.chat is not None
    stream = endpoint == "stream"
    prepared = account.chat.prepare_chat(REQUEST, model="m", stream=stream, max_output_tokens=None)
    if not stream:
        await account.chat.create_chat(prepared)
        return
    async with aclosing(account.chat.stream_chat(prepared)) as batches:  # type: ignore[type-var]
        async for _ in batches:
            pass


@pytest.mark.parametrize("endpoint", ["chat", "stream", "transcription"])
@pytest.mark.parametrize(("byok", "expected"), [(True, ProviderCredentialRejected), (False, ProviderUnavailable)])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 429])
async def test_a_refused_key_is_told_to_whom_it_belongs(
    site: ProviderSite, tmp_path: Path, endpoint: str, byok: bool, expected: type[QuillgateError], status: int
) -> None:
    """A workspace can repair its own key; the gateway's is no business of its callers."""
    sound = tmp_path / "sound"
    sound.write_bytes(b"RIFF")
    site.upstream.script(json_answer(status, REFUSED))
    with pytest.raises(QuillgateError) as caught:
        await ask(account(site, byok=byok), endpoint, sound)
    assert type(caught.value) is expected
    assert caught.value.metadata == {"provider": "fake"}


def test_an_account_knows_what_can_be_asked(site: ProviderSite) -> None:
    """Endpoints that a vendor has, and the settings of the account itself."""
    found = account(site, byok=True)
    assert (found.provider, found.byok, found.max_in_flight) == ("fake", True, 3)
    assert None not in (found.chat, found.text, found.responses, found.transcriptions, found.lister)


def test_an_account_lacks_what_its_vendor_never_has(site: ProviderSite) -> None:
    """DeepSeek hears nothing, and completes no texts unless the settings say so."""
    config = ProviderConfig("deepseek", site.upstream.base_url, Secret("k-42"), is_trusted=True)
    found = make_account(config, site.pool)
    assert (found.text, found.responses, found.transcriptions) == (None, None, None)


async def test_a_transcription_goes_where_the_dialect_says(site: ProviderSite, tmp_path: Path) -> None:
    """Azure's deployments hear at addresses of their own, with its header for the key and those of the settings."""
    sound = tmp_path / "sound"
    sound.write_bytes(b"RIFF")
    site.upstream.script(json_answer(200, {"text": "hello"}))
    bare = site.upstream.base_url.removesuffix("/v1")
    config = ProviderConfig("azure", bare, Secret("k-42"), is_trusted=True, headers={"x-more": "1"})
    await ask(replace(make_account(config, site.pool)), "transcription", sound)
    (request,) = site.upstream.requests
    assert request.path == "/openai/deployments/m/audio/transcriptions"
    assert (request.headers["api-key"], request.headers["x-more"]) == ("k-42", "1")
    assert request.headers["content-type"].startswith("multipart/form-data; boundary=")


@pytest.mark.parametrize("limit", ["first_byte_s", "stall_s"])
async def test_operator_s_limits_hold_for_every_kind_of_answer(site: ProviderSite, tmp_path: Path, limit: str) -> None:
    """A silent provider is given up after that time, whatever it was asked for."""
    site.upstream.script(*[sse_answer(b": head\n\n", Step.HANG) if limit == "stall_s" else _SILENT] * 2)
    config = ProviderConfig("fake", site.upstream.base_url, None, is_trusted=True, **{limit: 0.05})  # type: ignore[arg-type]
    account = make_account(config, site.pool)
    assert account.chat is not None
    assert account.transcriptions is not None
    prepared = account.chat.prepare_chat(REQUEST, model="m", stream=True, max_output_tokens=None)
    with pytest.raises(ProviderTimeout):
        await anext(account.chat.stream_chat(prepared))
    sound = tmp_path / "sound.wav"
    sound.write_bytes(b"RIFF")
    task = TranscriptionTask(sound, TranscriptionOptions(response_format="json"), "m")
    with pytest.raises(ProviderTimeout):
        await anext(account.transcriptions.stream_transcription(task))


@pytest.mark.parametrize("protocol", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("on_hang_up", ["cancel", "drain"])
def test_the_operator_says_what_a_hang_up_does(site: ProviderSite, protocol: Protocol, on_hang_up: OnHangUp) -> None:
    """Whatever a provider speaks; who says nothing hangs up on it as well, though it may go on to bill."""
    entry = ProviderEntry(base_url=site.upstream.base_url, protocol=protocol, on_hang_up=on_hang_up)
    config = entry.switch_on("fake", {})
    assert config is not None
    assert make_account(config, site.pool).drains is (on_hang_up == "drain")
    silent = ProviderEntry(base_url=site.upstream.base_url, protocol=protocol).switch_on("fake", {})
    assert silent is not None
    assert not make_account(silent, site.pool).drains
