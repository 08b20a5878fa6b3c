"""Accounts have the limits that the operator says, and else those of their kind of answer."""

from pathlib import Path

import pytest
from fakes.provider_site import REQUEST, ProviderSite
from fakes.scripted_upstream import ScriptedAnswer, Step, sse_answer

from quillgate.v1.transcription_pb2 import TranscriptionOptions
from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.errors import ProviderTimeout
from quillgate_core.providers.accounts import make_account
from quillgate_core.upstream import TranscriptionTask

_SILENT = ScriptedAnswer(before=[Step.HANG])


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


def test_accounts_know_whose_key_it_is_and_their_limit(site: ProviderSite) -> None:
    """Routing reads both from the account."""
    config = ProviderConfig("fake", site.upstream.base_url, None, is_trusted=True, max_in_flight=7)
    assert not make_account(config, site.pool).byok
    account = make_account(config, site.pool, byok=True)
    assert (account.provider, account.byok, account.max_in_flight) == ("fake", True, 7)
