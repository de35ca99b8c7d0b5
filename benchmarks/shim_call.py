"""One call of the shim, answered at once, against a bare round trip of its AMQP client."""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.stage import Stage, finished

NAME = "shim-call"
BOUND = 2.0
_ROUNDS = 15
_CALLS = 20
_OPEN = (
    "ping: publish, confirm, reply of the real service (Perl conversation, JSON both ways, two hops over the broker)",
    "1000 bytes to the client's own queue: publish, confirm, delivery (no JSON, one hop, nobody answers)",
)


def run(stage: Stage) -> list[Figure]:
    """Two figures: with the connection that the shim opens for every call, which is bound, and without."""
    fresh: tuple[list[float], list[float]] = ([], [])
    kept: tuple[list[float], list[float]] = ([], [])
    with stage.service():
        _ping(stage, "--fresh")  # the first call meets a service whose threads are not there yet
        for _ in range(_ROUNDS):
            fresh[0].extend(_ping(stage, "--fresh"))
            fresh[1].extend(_echo(stage, "--fresh"))
            kept[0].extend(_ping(stage))
            kept[1].extend(_echo(stage))
    return [
        Figure.ratio(
            NAME,
            "a call as the shim makes it",
            *fresh,
            BOUND,
            f"{_OPEN[0]}; against: {_OPEN[1]}. Both in Perl, by the same client, each on a connection of its own: "
            "connect, declare, consume and close are measured on both sides, because vcld's calls do that",
        ),
        Figure.ratio(
            NAME,
            "on an open connection",
            *kept,
            None,
            f"{_OPEN[0]}; against: {_OPEN[1]}. For information: no call of vcld has an open connection",
        ),
    ]


def _ping(stage: Stage, *options: str) -> list[float]:
    lines = finished(stage.ask("--repeat", str(_CALLS), *options, "ping"), stage.data(stage.slots[0]))
    if lines[-2]["reply"]["outcome"] != "ok":
        raise RuntimeError(f"ping failed: {lines[-2]}")
    milliseconds: list[float] = lines[-1]["milliseconds"]
    return milliseconds


def _echo(stage: Stage, *options: str) -> list[float]:
    """vcld's own user may not publish to its own queue, so this is done by one who may do everything."""
    broker = stage.bed.rabbitmq
    password = stage.bed.directory / "onlooker"
    password.touch(mode=0o600)
    password.write_text(broker.password("onlooker"))
    user = {"ESXPROV_VCLD_URL": broker.url("onlooker"), "ESXPROV_VCLD_PASSWORD_FILE": str(password)}
    milliseconds: list[float] = finished(stage.ask("--echo", str(_CALLS), *options, **user))[-1]["milliseconds"]
    return milliseconds
