"""The facade's settings: one frozen dataclass, read from the environment here and nowhere else in the facade.

Every field is documented where it is declared, with its unit, default and bounds; `FacadeConfig.describe` lists them
for the README and the CLI. Nothing here opens a socket or a file.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Self

from quillgate_facade.origins import is_origins

ENVIRON_PREFIX = "QUILLGATE_FACADE_"

_MIB = 1024 * 1024


class FacadeConfigError(Exception):
    """The environment holds unusable settings; `problems` is one sentence for each of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Setting:
    """What is to be known about one field: the variable that sets it, its default, and what it is for."""

    variable: str
    default: object
    purpose: str


def _number(default: float, purpose: str, *, least: float = 0.001, most: float = 1e9) -> Any:
    return field(default=default, metadata={"purpose": purpose, "least": least, "most": most})


def _text(default: str, purpose: str, *, check: Callable[[str], bool] = bool) -> Any:
    return field(default=default, metadata={"purpose": purpose, "check": check})


@dataclass(frozen=True, kw_only=True)
class FacadeConfig:
    """Where the facade listens and what it puts up with; every limit has a default that suits the open internet."""

    host: str = _text("127.0.0.1", "Address to listen on.")
    port: int = _number(8080, "TCP port to listen on; 0 takes a free one.", least=0, most=65535)

    max_connections: int = _number(4096, "Most open connections; a further one is answered 503 and closed.", least=1)
    idle_timeout_s: float = _number(75.0, "How long a connection may wait for its next request, in seconds.")
    head_timeout_s: float = _number(10.0, "How long request line and headers may take to arrive, in seconds.")
    head_max_bytes: int = _number(16384, "Most bytes of request headers; more is answered 431.", least=256)

    body_max_bytes: int = _number(32 * _MIB, "Most bytes of a request body; more is answered 413.", least=1)
    body_timeout_s: float = _number(30.0, "How long a request body may take to arrive, in seconds.")
    body_grace_s: float = _number(5.0, "How long a body may stay below `body_min_bytes_per_s`, in seconds.")
    body_min_bytes_per_s: int = _number(65536, "Slowest body after the grace, in bytes a second.", least=1)
    linger_timeout_s: float = _number(3.0, "How long the rest of a refused body is still read, in seconds.", least=0)

    write_stall_timeout_s: float = _number(30.0, "How long a client may read nothing before it is cut, in seconds.")
    comment_interval_s: float = _number(15.0, "Silence after which a stream gets a keep-alive comment, in seconds.")

    completion_timeout_s: float = _number(610.0, "Deadline of a completion call to the core, in seconds.")
    call_timeout_s: float = _number(5.0, "Deadline of any other call to the core, in seconds.")
    readiness_timeout_s: float = _number(1.0, "Deadline of the core's health check behind /readyz, in seconds.")

    cors_origins: str = _text(
        "",
        "Web pages whose scripts may call, such as `https://app.example`, comma-separated; `*`: any; unset: none.",
        check=is_origins,
    )

    unready_s: float = _number(
        0.0, "How long a stop says 503 at /readyz and still takes new connections, in seconds.", least=0
    )
    drain_timeout_s: float = _number(60.0, "How long requests may run on after a stop, in seconds.", least=0)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Reads `QUILLGATE_FACADE_<FIELD>` variables; raises FacadeConfigError with every problem at once."""
        problems: list[str] = []
        values: dict[str, Any] = {}
        known = {_variable(item): item for item in fields(cls)}
        for variable in sorted(name for name in environ if name.startswith(ENVIRON_PREFIX)):
            item = known.get(variable)
            if item is None:
                problems.append(f"{variable}: there is no such setting.")
                continue
            try:
                values[item.name] = _parse(item, environ[variable])
            except ValueError as error:
                problems.append(f"{variable}: {error}.")
        if problems:
            raise FacadeConfigError(problems)
        return cls(**values)

    @classmethod
    def describe(cls) -> Iterator[Setting]:
        """Lists every setting in the order of declaration."""
        for item in fields(cls):
            yield Setting(_variable(item), item.default, item.metadata["purpose"])


def _variable(item: "Field[Any]") -> str:
    return ENVIRON_PREFIX + item.name.upper()


def _parse(item: "Field[Any]", text: str) -> str | int | float:
    if item.type is str:
        if not text.strip():
            raise ValueError("it must not be empty")
        if not item.metadata["check"](text.strip()):
            raise ValueError("it cannot be understood")
        return text.strip()
    kind = int if item.type is int else float
    try:
        value = kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"it must be {wanted}") from None
    least, most = item.metadata["least"], item.metadata["most"]
    if not least <= value <= most:
        raise ValueError(f"it must be from {least:.12g} to {most:.12g}")
    return value
