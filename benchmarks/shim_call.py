"""One call of the shim, answered at once, against a bare round trip of its AMQP client to an echo."""

from __future__ import annotations

from benchmarks.echo import EchoPeer
from benchmarks.figures import Figure
from benchmarks.stage import Stage, finished

NAME = "shim-call"
BOUND = 2.0
_ROUNDS = 15
_CALLS = 20
_COMPARED = (
    "ping by the shim's conversation: envelope, spool file, publish, confirm, the real service's reply; against: 1000 "
    "bytes by the same Perl client to a peer that sends them back at once (pika, no JSON): publish, confirm, delivery"
)


def run(stage: Stage) -> list[Figure]:
    """Two figures: with the connection that the shim opens for every call, which is bound, and without."""
    kept: tuple[list[float], list[float]] = ([], [])
    fresh: tuple[list[float], list[float]] = ([], [])
    with stage.service(), EchoPeer(stage.bed.rabbitmq):
        _ping(stage, "--fresh")  # the first call meets a service whose threads are not there yet
        for _ in range(_ROUNDS):
            kept[0].extend(_ping(stage))
            kept[1].extend(_echo(stage))
            fresh[0].extend(_ping(stage, "--fresh"))
            fresh[1].extend(_echo(stage, "--fresh"))
    both = f"{_COMPARED}. Both sides"
    return [
        Figure.ratio(
            NAME,
            "as the shim makes it",
            *fresh,
            BOUND,
            f"{both} connect for each call, as the shim does, and that is measured, too",
        ),
        Figure.ratio(
            NAME,
            "on an open connection",
            *kept,
            None,
            f"{both} have connected before. For information: no call of vcld finds an open connection",
        ),
    ]


def _ping(stage: Stage, *options: str) -> list[float]:
    lines = finished(stage.ask("--repeat", str(_CALLS), *options, "ping"), stage.data(stage.slots[0]))
    if lines[-2]["reply"]["outcome"] != "ok":
        raise RuntimeError(f"ping failed: {lines[-2]}")
    milliseconds: list[float] = lines[-1]["milliseconds"]
    return milliseconds


def _echo(stage: Stage, *options: str) -> list[float]:
    milliseconds: list[float] = finished(stage.ask("--echo", str(_CALLS), *options))[-1]["milliseconds"]
    return milliseconds
