"""`quillgate serve facade` while its core is away: it looks for it often enough to be back soon after it."""

import socket
import time
import urllib.error
import urllib.request
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from serve_process import environment, serving

ATTEMPTS = 7
MAX_GAP_S = 2.5
"""Between two attempts: a second and a fifth by the settings, the rest is for a busy machine."""


@pytest.mark.slow
def test_a_core_that_was_away_for_long_is_found_soon(tmp_path: Path) -> None:
    """A facade tries to connect about once a second, however long its core has been away."""
    with socket.create_server(("127.0.0.1", 0)) as core:
        core.settimeout(20)
        target = f"127.0.0.1:{core.getsockname()[1]}"
        with serving(["facade", "--core", target], environment(tmp_path), ready=r"^core ") as facade:
            health = facade.base_url.partition("/api/")[0] + "/readyz"
            with suppress(urllib.error.HTTPError), urllib.request.urlopen(health, timeout=5):
                pass
            times = []
            for _ in range(ATTEMPTS):
                core.accept()[0].close()
                times.append(time.monotonic())
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) < MAX_GAP_S
