"""Runs the gateway in TensorZero's wheel, on a port of its own choice, and prints the base URL.

    python bench/peers/tensorzero_gateway.py gateway.toml

To be run with the environment of `tensorzero.lock`.
"""

import signal
import sys

from openai import OpenAI
from tensorzero import patch_openai_client

client = patch_openai_client(OpenAI(api_key="unused"), config_file=sys.argv[1], async_setup=False)
print(f"listening at {client.base_url}", flush=True)
signal.sigwait({signal.SIGINT, signal.SIGTERM})
