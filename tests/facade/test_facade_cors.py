"""Cross-origin requests: off by default, for the pages that a setting names, on answers, errors and streams alike."""

from collections.abc import Mapping

import pytest
from aiohttp import ClientResponse, ClientSession
from fakes.facade_site import StartFacade, client_of
from fakes.fake_core import FakeCore, hello_stream

from quillgate_facade.config import FacadeConfig, FacadeConfigError

PAGE = "https://app.example"
CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
ASKED = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang,x-stainless-retry-count",
}
PATHS = ["/v1/models", "/v1/models/a/b", CHAT, "/api/openai/v1/chat/completions", "/v1/completions", "/healthz"]


def cors(answer: ClientResponse) -> Mapping[str, str]:
    """The headers that browsers look at."""
    return {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("access-control")}


def config(origins: str) -> FacadeConfig:
    """A facade on a free port for some pages."""
    return FacadeConfig(port=0, drain_timeout_s=0.2, cors_origins=origins)


@pytest.mark.parametrize("path", PATHS)
async def test_options_without_cors(http: ClientSession, path: str) -> None:
    """By default OPTIONS says what is allowed, without a key, and nothing to browsers."""
    async with http.options(path, headers={**ASKED, "authorization": ""}) as answer:
        assert (answer.status, await answer.read()) == (204, b"")
    assert answer.headers["allow"] in ("GET, HEAD, OPTIONS", "POST, OPTIONS")
    assert answer.headers["x-request-id"].startswith("req_")
    assert cors(answer) == {}


@pytest.mark.parametrize(("origins", "allowed"), [("*", "*"), (f"https://b.example, {PAGE}", PAGE)])
@pytest.mark.parametrize("path", PATHS)
async def test_preflight(start: StartFacade, origins: str, allowed: str, path: str) -> None:
    """A page that may call is told so before it does, with whatever headers it wants to send."""
    async with (
        client_of(await start(config(origins))) as http,
        http.options(path, headers=ASKED) as answer,
    ):
        assert answer.status == 204
    told = cors(answer)
    assert told["access-control-allow-origin"] == allowed
    assert told["access-control-allow-headers"] == ASKED["access-control-request-headers"]
    assert {"GET", "POST", "DELETE"} <= set(told["access-control-allow-methods"].split(", "))
    assert int(told["access-control-max-age"]) > 0
    assert "access-control-allow-credentials" not in told


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_may_be_read(core: FakeCore, start: StartFacade, stream: bool) -> None:
    """Answers, streams and errors carry the headers, so that the page sees them and their request id."""
    core.script.steps = hello_stream()
    async with client_of(await start(config(PAGE))) as http:
        for path, status in [(CHAT, 200), ("/v1/embeddings", 404)]:
            async with http.post(path, json={**BODY, "stream": stream}, headers={"origin": PAGE}) as answer:
                await answer.read()
            assert answer.status == status
            told = cors(answer)
            assert told["access-control-allow-origin"] == PAGE
            assert "x-request-id" in told["access-control-expose-headers"]
            assert "access-control-allow-methods" not in told
            assert answer.headers["vary"] == "origin"


@pytest.mark.parametrize("origin", ["", "https://other.example", PAGE + ".evil", "null", PAGE.upper()])
async def test_other_pages(start: StartFacade, origin: str) -> None:
    """Other pages are told nothing, which keeps their browsers from asking; caches keep the two apart."""
    async with (
        client_of(await start(config(PAGE))) as http,
        http.options(CHAT, headers={**ASKED, "origin": origin}) as answer,
    ):
        assert answer.status == 204
    assert cors(answer) == {}
    assert answer.headers["vary"] == "origin"


@pytest.mark.parametrize("names", ["", "x" * 4097, "a;b", "é"])
async def test_odd_header_names_are_not_echoed(start: StartFacade, names: str) -> None:
    """What cannot be a list of header names is not said back."""
    async with (
        client_of(await start(config("*"))) as http,
        http.options(CHAT, headers={**ASKED, "access-control-request-headers": names}) as answer,
    ):
        assert "access-control-allow-headers" not in cors(answer)


@pytest.mark.parametrize("origins", ["*", PAGE, "http://localhost:3000", "http://[::1]:8080", f"{PAGE},http://b"])
def test_origins_are_read(origins: str) -> None:
    """The setting takes any page, or a list."""
    assert FacadeConfig.from_environ({"QUILLGATE_FACADE_CORS_ORIGINS": origins}).cors_origins == origins


@pytest.mark.parametrize("origins", ["app.example", PAGE + "/", f"{PAGE},*", "https://*.example", "HTTPS://A", ","])
def test_bad_origins_are_refused(origins: str) -> None:
    """What no browser would send as an origin is a mistake that the start reports."""
    with pytest.raises(FacadeConfigError) as raised:
        FacadeConfig.from_environ({"QUILLGATE_FACADE_CORS_ORIGINS": origins})
    assert raised.value.problems == ["QUILLGATE_FACADE_CORS_ORIGINS: it cannot be understood."]
