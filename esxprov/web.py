"""Read-only JSON over HTTP: `GET /v1/capacity` and `GET /v1/place`, for VCL's front end and whoever else asks.

A plain WSGI application behind waitress. Every answer is worked out when it is asked for; nothing is claimed, and what
one question may cost is bounded.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from waitress import wasyncore
from waitress.server import create_server

from esxprov.config import HttpConfig
from esxprov.errors import DependencyUnavailable, ProvisioningError
from esxprov.handlers.capacity import capacity_in, moment
from esxprov.handlers.where import MOST, where_in
from esxprov.handlers.world import image_named, nearest, world_now
from esxprov.placement.world import World
from esxprov.ports import Clock, Tools

log = logging.getLogger(__name__)

Environment = Mapping[str, Any]
StartResponse = Callable[..., Any]

_THREADS = 4
_CONNECTIONS = 100
_LARGEST_HEADER = 16_384
_STOP_S = 15.0
"""An answer under way takes some seconds."""

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_STATUS_OF = {"invalid_event": 400, "image_not_found": 404, "host_unavailable": 503, "vsphere_auth": 503}


class _Refused(Exception):
    """Not answered: an HTTP status, one sentence, and more headers."""

    def __init__(self, status: int, sentence: str, *headers: tuple[str, str]) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class _Route:
    """A question, and the parameters it knows."""

    answer: Callable[[Questions, Mapping[str, str]], dict[str, Any]]
    parameters: frozenset[str]


class Questions:
    """The WSGI application. `token` is what a caller must show, None for whoever can reach us."""

    def __init__(self, tools: Tools, clock: Clock, token: str | None) -> None:
        self._tools = tools
        self._clock = clock
        self._token = token

    def __call__(self, environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        began = self._clock.monotonic()
        more: tuple[tuple[str, str], ...] = ()
        try:
            status, answer = 200, self._answer(environment)
        except _Refused as refused:
            status, answer, more = refused.status, {"error": str(refused)}, refused.headers
        except ProvisioningError as error:
            status, answer = _STATUS_OF.get(error.code, 500), {"error": error.message}
        except DependencyUnavailable as error:
            status, answer = 503, {"error": str(error)}
        except Exception:
            log.exception("a question over HTTP found a bug")
            status, answer = 500, {"error": "internal error: the service's log has more"}
        path = environment.get("PATH_INFO", "")
        took_s = self._clock.monotonic() - began
        # Not the query: some put secrets there.
        log.info("%s %r: %d in %.3f s", environment.get("REQUEST_METHOD"), path[:80], status, took_s)
        body = json.dumps(answer, indent=1).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            *more,
        ]
        start_response(f"{status} {_REASONS[status]}", headers)
        return [body]

    def _answer(self, environment: Environment) -> dict[str, Any]:
        self._admit(environment.get("HTTP_AUTHORIZATION", ""))
        path = environment.get("PATH_INFO", "")
        route = _ROUTES.get(path)
        if route is None:
            raise _Refused(404, f"there is nothing at this path; there are: {', '.join(_ROUTES)}")
        if environment.get("REQUEST_METHOD") != "GET":
            raise _Refused(405, f"{path} is only read: use GET", ("Allow", "GET"))
        return route.answer(self, _parameters(environment.get("QUERY_STRING", ""), route.parameters))

    def _admit(self, authorization: str) -> None:
        if self._token is None:
            return
        scheme, _, token = authorization.partition(" ")
        is_known = hmac.compare_digest(token.strip().encode("latin-1", "replace"), self._token.encode())
        if scheme.lower() != "bearer" or not is_known:
            raise _Refused(
                401,
                "send the token of [http] token_file as 'Authorization: Bearer TOKEN'",
                ("WWW-Authenticate", "Bearer"),
            )

    def _world(self, pool: str | None) -> World:
        world = world_now(self._tools, pool, self._clock.now())
        if world.silent and not world.snapshot.hosts:
            raise _Refused(503, f"no endpoint of pool {world.pool} answers: {next(iter(world.silent.values()))}")
        return world

    def place(self, asked: Mapping[str, str]) -> dict[str, Any]:
        if "image" not in asked:
            raise _Refused(400, "image is missing: name one of VCL's images, as in /v1/place?image=NAME&count=30")
        count = _number(asked, "count") or 1
        most = _number(asked, "max_per_host")
        explain = _is_yes(asked, "explain")
        world = self._world(asked.get("pool"))
        image = image_named(world.images, asked["image"])
        return {"pool": world.pool, "image": image.name, **where_in(world, "http", image, count, most, explain=explain)}

    def capacity(self, asked: Mapping[str, str]) -> dict[str, Any]:
        # The + of an offset is a blank to those who do not quote it, as in PHP's date('c').
        at = moment(asked["at"].replace(" ", "+"), self._clock.now()) if "at" in asked else None
        n_plus_one = _is_yes(asked, "n_plus_one")
        pools = [asked["pool"]] if "pool" in asked else [pool.name for pool in self._tools.pools.all()]
        return {"pools": [capacity_in(self._world(pool), at=at, n_plus_one=n_plus_one) for pool in pools]}


_ROUTES: Mapping[str, _Route] = {
    "/v1/capacity": _Route(Questions.capacity, frozenset({"at", "n_plus_one", "pool"})),
    "/v1/place": _Route(Questions.place, frozenset({"image", "count", "max_per_host", "explain", "pool"})),
}


def _parameters(query: str, known: frozenset[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError as error:
        raise _Refused(400, f"the query cannot be read: {error}") from error
    for name, value in pairs:
        if name not in known:
            hint = nearest(name, known) or f"; there are: {', '.join(sorted(known))}"
            raise _Refused(400, f"there is no parameter {name[:80]!r}{hint}")
        if name in found:
            raise _Refused(400, f"{name} is given twice")
        found[name] = value
    return found


def _number(asked: Mapping[str, str], name: str) -> int | None:
    if name not in asked:
        return None
    text = asked[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MOST):
        raise _Refused(400, f"{name} is {text[:80]!r}, expected a whole number from 1 to {MOST}")
    return int(text)


def _is_yes(asked: Mapping[str, str], name: str) -> bool:
    text = asked.get(name, "0")
    if text not in ("0", "1"):
        raise _Refused(400, f"{name} is {text[:80]!r}, expected 1 or 0")
    return text == "1"


class WebServer:
    """Serves the questions in threads of its own, from `start` to `stop`."""

    def __init__(self, config: HttpConfig, tools: Tools, clock: Clock) -> None:
        self._config = config
        self._application = Questions(tools, clock, config.token)
        self._sockets: dict[int, Any] = {}  # belongs to the thread once it runs
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen. Raises DependencyUnavailable if the address cannot be had."""
        config = self._config
        try:
            self._server = create_server(
                self._application,
                map=self._sockets,
                host=config.host,
                port=config.port,
                threads=_THREADS,
                connection_limit=_CONNECTIONS,
                max_request_header_size=_LARGEST_HEADER,
                max_request_body_size=_LARGEST_HEADER,
                ident="esxprov",
            )
        except OSError as error:
            raise DependencyUnavailable(
                f"{config.host} port {config.port} cannot be listened on ({error.strerror}): see to [http] listen"
            ) from error
        self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)
        self._thread.start()
        log.info("answering questions on http://%s:%d/v1/", config.host, config.port)

    def stop(self) -> None:
        """Take no more questions; answers under way are given up after _STOP_S."""
        if self._thread is None:
            return
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=_STOP_S)
        self._server.trigger.pull_trigger(lambda: wasyncore.close_all(self._sockets, ignore_all=True))
        self._thread.join(_STOP_S)
