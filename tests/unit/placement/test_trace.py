"""Traces as CSV: read as they are meant, refused by file and line."""

from __future__ import annotations

import math

import pytest

from esxprov.placement import trace
from esxprov.placement.snapshot import Size
from esxprov.placement.trace import TraceError

HOSTS = ["host,cpus,ram_mb", "h1,32,65536", "h2,64,131072"]
REQUESTS = [
    "time_s,duration_s,request,vm,cpus,ram_mb,max_per_host",
    "0,60,r1,a,2,4096,",
    "0.5,,r2,b,1,1024,2",
    "0.5,30,r2,c,2,2048,1",
]


def test_hosts_promise_just_what_the_file_says() -> None:
    made = trace.hosts(HOSTS, "h.csv")
    assert [(host.name, host.cpus_free, host.ram_free_mb) for host in made] == [("h1", 32, 65536), ("h2", 64, 131072)]


def test_rows_of_one_request_are_a_cluster_with_its_strictest_bound() -> None:
    single, cluster = trace.arrivals(REQUESTS, "r.csv")
    assert (single.name, single.vms, single.ends_s) == ("r1", ("a",), (60.0,))
    assert (cluster.vms, cluster.ends_s) == (("b", "c"), (math.inf, 30.5))
    assert [(one.ram_needed_mb, one.cpus, one.max_per_host) for one in cluster.requests] == [(1024, 1, 1), (2048, 2, 1)]
    assert single.requests[0].max_per_host is None


def test_a_catalogue_may_say_how_many_images_there_are_of_a_size() -> None:
    assert trace.catalogue(["cpus,ram_mb", "1,1024"], "c.csv") == [Size(1024, 1, 1)]
    assert trace.catalogue(["image,cpus,ram_mb,images", "a,1,1024,7"], "c.csv") == [Size(1024, 1, 7)]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("1,60,r9,z,0,4096,", "r.csv line 5: cpus is '0', expected a whole number of at least 1"),
        ("1,60,r9,z,1,-5,", "r.csv line 5: ram_mb is '-5', expected a whole number of at least 1"),
        ("1,60,r9,z,1.5,5,", "r.csv line 5: cpus is '1.5', expected a whole number of at least 1"),
        ("1,60,r9,z,nan,5,", "r.csv line 5: cpus is 'nan', expected a whole number of at least 1"),
        ("1,60,r9,z,1,99999999999,", "r.csv line 5: ram_mb is '99999999999', expected a whole number of at least 1"),
        ("1,60,r9,z,1,,", "r.csv line 5: ram_mb is empty"),
        ("1,60,r9,z,1,5,0", "r.csv line 5: max_per_host is '0', expected a whole number of at least 1"),
        ("0.1,60,r9,z,1,5,", "r.csv line 5: time_s is 0.1, before 0.5 of the line above: sort the file by time_s"),
        ("soon,60,r9,z,1,5,", "r.csv line 5: time_s is 'soon', expected seconds, 0 or more"),
        ("1,-1,r9,z,1,5,", "r.csv line 5: duration_s is '-1', expected seconds, 0 or more"),
        ("1,60,r9,a,1,5,", "r.csv line 5: vm 'a' is there twice"),
        ("1,60,r2,z,1,5,", "r.csv line 5: request 'r2' came at 0.5, all its rows need that time_s"),
        ("1,60,,z,1,5,", "r.csv line 5: request is empty"),
        ("1,60,r9,z,1", "r.csv line 5: it has another number of columns than the header"),
        ("1,60,r9,z,1,5,,7", "r.csv line 5: it has another number of columns than the header"),
        ('1,60,"r9,z', "r.csv line 5: unexpected end of data"),
    ],
)
def test_a_request_that_cannot_be_is_named_by_its_line(line: str, sentence: str) -> None:
    with pytest.raises(TraceError) as caught:
        trace.arrivals([*REQUESTS, line], "r.csv")
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([*HOSTS, "h1,1,1"], "h.csv line 4: host 'h1' is there twice"),
        ([*HOSTS, "h3,0,1"], "h.csv line 4: cpus is '0'"),
        (["host,ram_mb", "h1,1"], "h.csv line 1: there is no column 'cpus', expected host,cpus,ram_mb"),
        ([], "h.csv line 1: there is no column 'host'"),
    ],
)
def test_a_host_that_cannot_be_is_named_by_its_line(lines: list[str], sentence: str) -> None:
    with pytest.raises(TraceError) as caught:
        trace.hosts(lines, "h.csv")
    assert str(caught.value).startswith(sentence)


def test_an_empty_catalogue_is_none() -> None:
    with pytest.raises(TraceError, match=r"c\.csv has no line below its header"):
        trace.catalogue(["cpus,ram_mb"], "c.csv")
