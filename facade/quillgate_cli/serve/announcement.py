"""What a start prints: where the service is, and the secrets that are shown only then."""

import asyncio
from datetime import timedelta

from quillgate_cli.serve.new_keys import NewKeys
from quillgate_core.app import Core
from quillgate_core.principal import SCOPES

NEW_KEY_LIFETIME = timedelta(days=30)
EXAMPLE = '{"model": "quillgate/echo", "messages": [{"role": "user", "content": "Hello, Quillgate!"}]}'


async def core_lines(core: Core, url: str, new_keys: NewKeys) -> list[str]:
    """Makes the keys that are asked for, and the first admin key; returns what to print. `url` is REST's, if there."""
    lines = [f"Base URL   {url}"] if url else []
    lines.append(f"gRPC       {core.address}")
    admin = await asyncio.get_running_loop().run_in_executor(None, core.keys.bootstrap)
    if admin is not None:
        lines.append(f"Admin key  {admin}   (shown once: keep it; the CLI reads it from QUILLGATE_KEY)")
    elif new_keys.admin:
        admin = await core.issue_key("serve --new-admin-key", scopes=SCOPES)
        lines.append(f"Admin key  {admin}   (another one, shown once; revoke the lost one with the CLI)")
    if new_keys.developer:
        secret = await core.issue_key("serve --new-key", lifetime=NEW_KEY_LIFETIME)
        lines.append(f"Your key   {secret}   (for {NEW_KEY_LIFETIME.days} days)")
        if url:
            lines += ["", "Try it:", f"  curl {url}/chat/completions \\"]
            lines += [
                f'    -H "Authorization: Bearer {secret}" -H "Content-Type: application/json" \\',
                f"    -d '{EXAMPLE}'",
            ]
    return lines


def say(*lines: str) -> None:
    """Prints all of it at once."""
    print("", *lines, "", sep="\n", flush=True)
