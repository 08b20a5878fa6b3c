"""A first program against the service for each official client, and for curl: what to paste, and ready to run.

Nothing here may read, print or hold a key: the programs take it from the environment.
"""

import shlex

from quillgate_cli.client_setup import KEY_VARIABLE, Client, ConfigFile, Service, Setup, json_text, quoted

_SET_KEY = f'export {KEY_VARIABLE}="…"  # a developer key'


def curl(service: Service) -> Setup:
    """Returns a shell script that asks a question and prints the answer as it comes."""
    question = [{"role": "user", "content": "Hello!"}]
    body = json_text({"model": service.default.id, "messages": question, "stream": True}).rstrip("\n")
    text = (
        f"curl --no-buffer {shlex.quote(service.base_url + '/chat/completions')} \\\n"
        f'  -H "Authorization: Bearer ${KEY_VARIABLE}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(body)}\n"
    )
    return Setup([ConfigFile("quillgate.sh", text)], [_SET_KEY, "sh quillgate.sh"])


def python(service: Service) -> Setup:
    """Returns a program for the official Python client."""
    text = (
        "import os\n\n"
        "from openai import OpenAI\n\n"
        f"client = OpenAI(base_url={quoted(service.base_url)}, api_key=os.environ[{quoted(KEY_VARIABLE)}])\n"
        "answer = client.chat.completions.create(\n"
        f"    model={quoted(service.default.id)},\n"
        '    messages=[{"role": "user", "content": "Hello!"}],\n'
        ")\n"
        "print(answer.choices[0].message.content)\n"
    )
    steps = [_SET_KEY, "pip install openai", "python quillgate_example.py"]
    return Setup([ConfigFile("quillgate_example.py", text)], steps)


def node(service: Service) -> Setup:
    """Returns a program for the official Node client."""
    text = (
        'import OpenAI from "openai";\n\n'
        "const client = new OpenAI({\n"
        f"  baseURL: {quoted(service.base_url)},\n"
        f"  apiKey: process.env.{KEY_VARIABLE},\n"
        "});\n"
        "const answer = await client.chat.completions.create({\n"
        f"  model: {quoted(service.default.id)},\n"
        '  messages: [{ role: "user", content: "Hello!" }],\n'
        "});\n"
        "console.log(answer.choices[0].message.content);\n"
    )
    steps = [_SET_KEY, "npm install openai", "node quillgate_example.mjs"]
    return Setup([ConfigFile("quillgate_example.mjs", text)], steps)


EXAMPLES = (
    Client("curl", "curl, a shell script", ".", curl),
    Client("python", "The official Python client", ".", python),
    Client("node", "The official Node client", ".", node),
)
"""The programs, in the order in which they are listed."""
