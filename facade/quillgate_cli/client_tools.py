"""How each coding tool is configured for the service: one function a tool, from the service to the tool's files.

The formats are the tools' own (opencode.ai/docs/providers, aider.chat/docs/config, llm.datasette.io, Codex's and
Continue's configuration references). Nothing here may read, print or hold a key.
"""

import shlex
from typing import Any

from quillgate_cli.client_setup import (
    KEY_VARIABLE,
    Client,
    ClientModel,
    ConfigFile,
    Service,
    Setup,
    json_text,
    quoted,
)

_SET_KEY = f'export {KEY_VARIABLE}="…"  # a developer key'
_OPENCODE_PROVIDER = "gateway"
_LLM_KEY_NAME = "quillgate"
_MOST_SHOWN = 25
"""Models that fit into a picker, or into a comment; a client that is told more shows them all, in a row."""


def opencode(service: Service) -> Setup:
    """Returns opencode.json: a provider that speaks chat completions, with every model and its limits."""
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Quillgate",
        "options": {"baseURL": service.base_url, "apiKey": f"{{env:{KEY_VARIABLE}}}"},
        "models": {model.id: _opencode_model(model) for model in service.models},
    }
    value: dict[str, Any] = {
        "$schema": "https://opencode.ai/config.json",
        "model": f"{_OPENCODE_PROVIDER}/{service.default.id}",
        "provider": {_OPENCODE_PROVIDER: provider},
    }
    run = f"opencode run --model {shlex.quote(value['model'])} 'Hello!'"
    return Setup([ConfigFile("opencode.json", json_text(value))], [_SET_KEY, run])


def _opencode_model(model: ClientModel) -> dict[str, Any]:
    """Both limits or none: OpenCode refuses one alone."""
    value: dict[str, Any] = {"name": model.id}
    if model.limited:
        value["limit"] = {"context": model.context_window, "output": model.max_output_tokens}
    return value


def aider(service: Service) -> Setup:
    """Returns Aider's settings and its table of model limits, under the names by which it knows its OpenAI client."""
    default = quoted(f"openai/{service.default.id}")
    settings = [f"openai-api-base: {quoted(service.base_url)}", f"model: {default}", f"weak-model: {default}"]
    limits = {f"openai/{model.id}": _aider_limits(model) for model in service.models}
    files = [
        ConfigFile(".aider.conf.yml", "\n".join(settings) + "\n"),
        ConfigFile(".aider.model.metadata.json", json_text(limits)),
    ]
    return Setup(files, [_SET_KEY, f'OPENAI_API_KEY="${KEY_VARIABLE}" aider'])


def _aider_limits(model: ClientModel) -> dict[str, Any]:
    limits = {
        "max_tokens": model.max_output_tokens,
        "max_input_tokens": model.context_window,
        "max_output_tokens": model.max_output_tokens,
    }
    known = {name: limit for name, limit in limits.items() if limit}
    return {**known, "litellm_provider": "openai", "mode": "chat"}


def llm(service: Service) -> Setup:
    """Returns llm's list of further models; llm has no place for limits and keeps keys under a name of its own."""
    entries = [
        f"- model_id: {quoted(model.id)}\n"
        f"  model_name: {quoted(model.id)}\n"
        f"  api_base: {quoted(service.base_url)}\n"
        f"  api_key_name: {_LLM_KEY_NAME}\n"
        "  supports_tools: true\n"
        "  supports_schema: true\n"
        for model in service.models
    ]
    steps = [
        f"llm keys set {_LLM_KEY_NAME}  # asks for a developer key",
        f"llm -m {shlex.quote(service.default.id)} 'Hello!'",
    ]
    return Setup([ConfigFile("extra-openai-models.yaml", "".join(entries))], steps)


def codex(service: Service) -> Setup:
    """Returns Codex's config.toml: a provider that speaks responses, the only API that Codex has."""
    default = service.default
    lines = [f"model = {quoted(default.id)}", 'model_provider = "quillgate"']
    if default.context_window:
        lines.append(f"model_context_window = {default.context_window}")
    lines += [
        "",
        "[model_providers.quillgate]",
        'name = "Quillgate"',
        f"base_url = {quoted(service.base_url)}",
        f"env_key = {quoted(KEY_VARIABLE)}",
        'wire_api = "responses"',
    ]
    others = [f"# codex --model {model.id}" for model in service.models[1:_MOST_SHOWN]]
    if len(service.models) > _MOST_SHOWN:
        others.append(f"# and {len(service.models) - _MOST_SHOWN} more: quillgate models")
    text = "\n".join([*lines, *([""] if others else []), *others]) + "\n"
    return Setup([ConfigFile("config.toml", text)], [_SET_KEY, "codex exec --skip-git-repo-check 'Hello!'"])


def continue_(service: Service) -> Setup:
    """Returns Continue's config.yaml, whose key comes from Continue's secrets; of many models the first ones."""
    shown = service.models[:_MOST_SHOWN]
    text = "name: Quillgate\nversion: 1.0.0\nschema: v1\nmodels:\n" + "".join(
        _continue_model(model, service.base_url) for model in shown
    )
    steps = [f"put {KEY_VARIABLE}=… (a developer key) into ~/.continue/.env"]
    if len(shown) < len(service.models):
        steps.append(f"choose others than these {len(shown)} of {len(service.models)} models with --only")
    return Setup([ConfigFile("config.yaml", text)], steps)


def _continue_model(model: ClientModel, base_url: str) -> str:
    limits = {"contextLength": model.context_window, "maxTokens": model.max_output_tokens}
    known = [f"      {name}: {limit}\n" for name, limit in limits.items() if limit]
    options = ["    defaultCompletionOptions:\n", *known] if known else []
    return (
        f"  - name: {quoted(model.id)}\n"
        "    provider: openai\n"
        f"    model: {quoted(model.id)}\n"
        f"    apiBase: {quoted(base_url)}\n"
        f"    apiKey: ${{{{ secrets.{KEY_VARIABLE} }}}}\n"
        "    roles: [chat, edit, apply]\n" + "".join(options)
    )


TOOLS = (
    Client("opencode", "OpenCode, a coding agent", ".", opencode),
    Client("aider", "Aider, a pair programmer", ".", aider),
    Client("llm", "llm, a command line", "~/.config/io.datasette.llm", llm, "LLM_USER_PATH"),
    Client("codex", "Codex, a coding agent", "~/.codex", codex, "CODEX_HOME"),
    Client("continue", "Continue, an editor extension", "~/.continue", continue_),
)
"""The tools, in the order in which they are listed."""
