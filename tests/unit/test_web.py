"""The questions over HTTP: what is asked wrongly is said in a sentence, and nothing is told to strangers."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from esxprov.errors import DependencyUnavailable
from esxprov.web import Questions
from tests.unit.world import IMAGES, FakeClock, Site

TOKEN = "0123456789abcdef"


def get(
    path: str, *, site: Site | None = None, token: str | None = None, method: str = "GET", authorization: str = ""
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """(status, JSON, headers) of an answer."""
    site = site or Site()
    said: list[Any] = []
    path, _, query = path.partition("?")
    environment = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "HTTP_AUTHORIZATION": authorization,
    }
    questions = Questions(site.tools, FakeClock(site.world), token)
    body = b"".join(questions(environment, lambda status, headers: said.extend((status, dict(headers)))))
    return int(said[0].split()[0]), json.loads(body), said[1]


def test_capacity_tells_of_every_pool() -> None:
    status, found, headers = get("/v1/capacity")
    assert (status, [pool["pool"] for pool in found["pools"]]) == (200, ["main"])
    assert headers["Content-Type"] == "application/json"
    assert {row["images"][0]: row["fits"] for row in found["pools"][0]["images"]}[IMAGES[1].name] == 9


@pytest.mark.parametrize("offset", ["Z", "%2B00:00", "+00:00"])
def test_a_time_may_have_its_plus_quoted_or_not(offset: str) -> None:
    _, found, __ = get(f"/v1/capacity?at=2026-11-22T09:00:00{offset}&n_plus_one=1")
    (pool,) = found["pools"]
    assert (pool["at"], pool["n_plus_one"]) == ("2026-11-22T09:00Z", True)


def test_place_tells_where() -> None:
    status, found, _ = get(f"/v1/place?image={IMAGES[1].name}&count=3&max_per_host=1")
    assert status == 200
    assert sorted(one["host"] for one in found["placements"]) == ["esx1", "esx2", "esx3"]


def test_an_image_goes_by_its_title_too() -> None:
    assert get("/v1/place?image=windows%2010+WITH+office")[1]["image"] == IMAGES[1].name


def test_a_refusal_is_an_answer() -> None:
    status, found, _ = get(f"/v1/place?image={IMAGES[1].name}&count=1000&explain=1")
    assert (status, found["placements"], found["reason"]) == (200, [], "the hosts do not take all 1000 VMs together")


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/", 404, "there is nothing at this path; there are: /v1/capacity, /v1/place"),
        ("/v1/capacity/", 404, "there is nothing at this path; there are: /v1/capacity, /v1/place"),
        ("/v1/place", 400, "image is missing: name one of VCL's images, as in /v1/place?image=NAME&count=30"),
        ("/v1/place?image=no", 404, "VCL has no image 'no' among its 2"),
        ("/v1/place?image=a&count=0", 400, "count is '0', expected a whole number from 1 to 1000"),
        ("/v1/place?image=a&count=1001", 400, "count is '1001', expected a whole number from 1 to 1000"),
        ("/v1/place?image=a&count=%C2%B2", 400, "count is '²', expected a whole number from 1 to 1000"),
        ("/v1/place?image=a&max_per_host=x", 400, "max_per_host is 'x', expected a whole number from 1 to 1000"),
        ("/v1/place?image=a&counts=3", 400, "there is no parameter 'counts', did you mean 'count'?"),
        ("/v1/place?image=a&image=b", 400, "image is given twice"),
        ("/v1/capacity?n_plus_one=yes", 400, "n_plus_one is 'yes', expected 1 or 0"),
        ("/v1/capacity?pool=mein", 400, "no pool has the VM host profile 'mein', did you mean 'main'?"),
        ("/v1/capacity?pool=%FF", 400, "the query cannot be read: "),
    ],
)
def test_what_is_asked_wrongly_is_said_in_a_sentence(path: str, status: int, sentence: str) -> None:
    found = get(path)
    assert found[0] == status
    assert found[1]["error"].startswith(sentence)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_nothing_can_be_written(method: str) -> None:
    status, found, headers = get("/v1/capacity", method=method)
    assert (status, found, headers["Allow"]) == (405, {"error": "/v1/capacity is only read: use GET"}, "GET")


@pytest.mark.parametrize(
    "shown", ["", f"Basic {TOKEN}", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", "Bearer tökén", "Bearer \u20ac"]
)
def test_without_the_token_nothing_is_told(shown: str) -> None:
    status, found, headers = get("/v1/anything", token=TOKEN, authorization=shown)
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert found == {"error": "send the token of [http] token_file as 'Authorization: Bearer TOKEN'"}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_token_all_is_told(scheme: str) -> None:
    assert get("/v1/capacity", token=TOKEN, authorization=f"{scheme} {TOKEN}")[0] == 200


def test_secrets_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "esxprov.web"):
        get(f"/v1/capacity?token={TOKEN}", token=TOKEN, authorization=f"Bearer {TOKEN}")
    assert "GET '/v1/capacity': 400 in " in caplog.text
    assert TOKEN not in caplog.text


def test_with_every_endpoint_silent_nobody_can_tell() -> None:
    site = Site()
    site.world.down = {"esx1", "esx2", "esx3"}
    status, found, _ = get("/v1/capacity", site=site)
    assert (status, found["error"]) == (503, "no endpoint of pool main answers: esx1 does not answer")


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (DependencyUnavailable("the database is away"), 503, "the database is away"),
        (KeyError("moid"), 500, "internal error: the service's log has more"),
    ],
)
def test_trouble_is_said_without_its_details(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, sentence: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("tests.unit.world.FakeInventory.images", fail)
    assert get("/v1/capacity")[:2] == (status, {"error": sentence})
