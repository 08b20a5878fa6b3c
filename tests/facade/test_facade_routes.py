"""Models, probes, credentials, and everything that is not served."""

import asyncio
from typing import Any

import pytest
from aiohttp import ClientSession
from fakes.facade_site import KEY, StartFacade, client_of, config
from fakes.fake_core import MODEL, FakeCore
from multidict import CIMultiDict
from openai import AsyncOpenAI
from yarl import URL

from quillgate_facade.app import FacadeServer

JSON_MODEL = {"id": MODEL, "object": "model", "created": 1, "owned_by": "google"}
MISSING_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)
NOT_ALL = "This service does not have all of OpenAI's API. It has GET /models, GET /models/{model}, "


def at(facade: FacadeServer, path: str) -> URL:
    """The URL of a path that must go out exactly as it is written."""
    return URL(f"http://127.0.0.1:{facade.port}{path}", encoded=True)


@pytest.mark.parametrize("prefix", ["/v1", "/api/openai/v1"])
async def test_list_models(core: FakeCore, http: ClientSession, prefix: str) -> None:
    """The list has OpenAI's form, and the call carries the key and a short deadline."""
    async with http.get(prefix + "/models") as answer:
        assert await answer.json() == {"object": "list", "data": [JSON_MODEL]}
    assert core.metadata[0]["authorization"] == f"Bearer {KEY}"
    assert 4 < core.deadlines_s[0] < 6


@pytest.mark.parametrize("path", [MODEL, "google%2Fgemini-2.5-flash", "google%2fgemini-2.5-flash"])
async def test_get_model(facade: FacadeServer, http: ClientSession, path: str) -> None:
    """The slash of a model id may come raw or percent-encoded: clients do either."""
    async with http.get(at(facade, "/v1/models/" + path)) as answer:
        assert await answer.json() == JSON_MODEL


@pytest.mark.parametrize("path", ["/v1/models", f"/v1/models/{MODEL}", "/healthz", "/readyz"])
async def test_head(http: ClientSession, path: str) -> None:
    """HEAD answers like GET, without the body."""
    async with http.head(path) as answer:
        assert answer.status == 200
        assert await answer.read() == b""
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("nope", "nope"),
        (MODEL + "/", MODEL + "/"),
        ("a//b", "a//b"),
        ("%00", "\0"),
        ("%F0%9F%99%82", "🙂"),
        ("a%252Fb", "a%2Fb"),
        ("%FF", "%FF"),
    ],
)
async def test_unknown_model(facade: FacadeServer, http: ClientSession, path: str, model: str) -> None:
    """An id that nobody serves is 404 and names the parameter, however odd it is."""
    async with http.get(at(facade, "/v1/models/" + path)) as answer:
        body = await answer.json()
    assert answer.status == 404
    assert body["error"] == {
        "message": f"The model `{model}` does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


async def test_openai_client_models(openai: AsyncOpenAI) -> None:
    """The official client lists the models and finds one of them."""
    assert [model.id async for model in openai.models.list()] == [MODEL]
    assert (await openai.models.retrieve(MODEL)).owned_by == "google"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/models/", "/v1/embeddings", "/v2/models", "//v1/models", "/%2e%2e/x"]
)
async def test_unknown_url(facade: FacadeServer, http: ClientSession, method: str, path: str) -> None:
    """An unknown path is 404 for every method and says what there is."""
    async with http.request(method, at(facade, path)) as answer:
        body = await answer.json()
    assert answer.status == 404
    assert body["error"]["code"] == "unknown_url"
    assert body["error"]["message"].startswith(f"Unknown request URL: {method} /")
    assert NOT_ALL in body["error"]["message"]
    assert "POST /chat/completions, " in body["error"]["message"]
    assert body["error"]["message"].endswith(", under /api/openai/v1 and /v1.")
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST, OPTIONS"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("DELETE", "/api/openai/v1/models/x", "GET, HEAD, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_wrong_method(http: ClientSession, method: str, path: str, allow: str) -> None:
    """A wrong method is 405 and says which ones are right."""
    async with http.request(method, path) as answer:
        body = await answer.json()
    assert answer.status == 405
    assert answer.headers["allow"] == allow
    assert body["error"] == {
        "message": f"Not allowed to {method} on {path} (HINT: allowed are {allow}).",
        "type": "invalid_request_error",
        "param": None,
        "code": "method_not_supported",
    }


async def models_with(facade: FacadeServer, *headers: tuple[str, str]) -> tuple[int, dict[str, Any]]:
    """Asks for the models with exactly these headers."""
    async with ClientSession() as http, http.get(at(facade, "/v1/models"), headers=CIMultiDict(headers)) as answer:
        return answer.status, (await answer.json()).get("error")


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("authorization", "Basic abc"),),
        (("authorization", "Bearer "),),
        (("api-key", KEY),),
        (("x-api-key", KEY),),
    ],
)
async def test_no_key(core: FakeCore, facade: FacadeServer, headers: Any) -> None:
    """Without a bearer credential the answer is 401 without a code, and the core is not asked."""
    status, error = await models_with(facade, *headers)
    assert status == 401
    assert error == {"message": MISSING_KEY, "type": "invalid_request_error", "param": None, "code": None}
    assert not core.requests


@pytest.mark.parametrize(
    "headers",
    [
        (("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")),
        (("authorization", f"Bearer {KEY}"), ("authorization", "Basic abc")),
        (("authorization", f"Bearer {KEY}"), ("api-key", "other")),
        (("authorization", f"Bearer {KEY}"), ("x-api-key", "other")),
    ],
)
async def test_two_keys(core: FakeCore, facade: FacadeServer, headers: Any) -> None:
    """Two different credentials are refused: whoever stands in front may have checked the other one."""
    status, error = await models_with(facade, *headers)
    assert status == 400
    assert "two different API keys" in error["message"]
    assert not core.requests


@pytest.mark.parametrize(
    "headers",
    [
        (("authorization", f"bearer {KEY}"),),
        (("AUTHORIZATION", f"BEARER  {KEY} "),),
        (("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")),
        (("authorization", f"Bearer {KEY}"), ("api-key", KEY)),
    ],
)
async def test_one_key(core: FakeCore, facade: FacadeServer, headers: Any) -> None:
    """The scheme has no case, and the same key twice is one key."""
    assert await models_with(facade, *headers) == (200, None)
    assert core.metadata[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("credential", ["a b", "schlüssel", "x" * 513])
async def test_what_cannot_be_a_key(core: FakeCore, facade: FacadeServer, credential: str) -> None:
    """What gRPC metadata cannot carry is refused like any wrong key, and nothing recognisable of it is shown."""
    status, error = await models_with(facade, ("authorization", f"Bearer {credential}"))
    assert (status, error["code"]) == (401, "invalid_api_key")
    assert credential not in error["message"]
    assert not core.requests


async def test_probes(core: FakeCore, facade: FacadeServer) -> None:
    """The facade is alive whatever the core does, and ready only while the core serves; no key is needed."""
    async with ClientSession() as http:
        for path, serving, status, text in [
            ("/healthz", True, 200, '{"status":"ok"}'),
            ("/readyz", True, 200, '{"status":"ok"}'),
            ("/readyz", False, 503, '{"status":"unavailable"}'),
            ("/healthz", False, 200, '{"status":"ok"}'),
        ]:
            core.serving = serving
            async with http.get(at(facade, path)) as answer:
                assert (answer.status, await answer.text()) == (status, text)
                assert answer.headers["x-request-id"].startswith("req_")


async def test_one_core_of_several_that_stops_is_no_news(core: FakeCore, facade: FacadeServer) -> None:
    """A core that says no is asked about a second time, which finds another one; two that say no are enough."""
    async with ClientSession() as http:
        for refusals, status in ((1, 200), (2, 503)):
            core.not_serving_checks = refusals
            async with http.get(at(facade, "/readyz")) as answer:
                assert answer.status == status


async def test_ready_without_a_core(core: FakeCore, start: StartFacade) -> None:
    """A core that is gone makes the facade unready within the probe's own deadline."""
    facade = await start(config(readiness_timeout_s=0.2))
    await core.__aexit__()
    async with client_of(facade) as http:
        answer = await asyncio.wait_for(http.get("/readyz"), 10)
        assert answer.status == 503
