"""`quillgate count`: what a usage counts, and why. Must not compute: core counts, this shows its steps."""

import click

from quillgate.v1.metering_service_pb2 import QuoteMessagesRequest, TokenUsage
from quillgate_cli import output
from quillgate_cli.argument import AMOUNT, json_option
from quillgate_cli.connection import Core, with_core


@click.command()
@click.option("--prompt", type=AMOUNT, required=True, help="Tokens of the prompt, cached ones included.")
@click.option("--cached", type=AMOUNT, default=0, show_default=True, help="Those of the prompt read from a cache.")
@click.option("--completion", type=AMOUNT, default=0, show_default=True, help="Tokens of the answer.")
@json_option
@with_core
def count(core: Core, *, prompt: int, cached: int, completion: int, as_json: bool) -> None:
    """Explain step by step how many messages a request with this usage counts."""
    tokens = TokenUsage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)
    response = core.call(core.metering.QuoteMessages, QuoteMessagesRequest(usage=tokens))
    if as_json:
        output.print_json(output.json_value(response))
        return
    number = output.count
    discount, effective, size = response.cached_discount, response.effective_input, response.tokens_per_message
    total, messages = number(effective + completion), number(response.counted_messages)
    output.print_fields(
        {
            "Cached discount": f"{number(cached)} cached / 2, rounded down = {number(discount)}",
            "Effective input": f"{number(prompt)} prompt - {number(discount)} = {number(effective)}",
            "Tokens": f"{number(effective)} + {number(completion)} completion = {total}",
            "Messages": f"{total} / {number(size)}, rounded up, at least 1 = {messages}",
        }
    )
