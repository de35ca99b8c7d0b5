"""The generated lease file is what its generator says it is."""

from __future__ import annotations

from benchmarks.leases.churn import Churn
from esxprov.leases.index import Index

NOW = 1_795_500_000


def test_the_same_seed_makes_the_same_file() -> None:
    assert list(Churn(500, 7, NOW)) == list(Churn(500, 7, NOW))
    assert list(Churn(500, 7, NOW)) != list(Churn(500, 8, NOW))


def test_the_owners_are_those_that_the_file_ends_with() -> None:
    churn = Churn(2000, 1, NOW)
    index = Index()
    index.feed(b"".join(churn))
    assert {lease.ip: lease.mac for lease in index.leases(NOW)} == churn.owners


def test_a_file_has_as_many_records_as_it_should_of_all_kinds() -> None:
    records = list(Churn(5000, 1, NOW))
    states = [record.partition(b"binding state ")[2].partition(b";")[0] for record in records]
    assert len(records) == 5000
    assert set(states) == {b"active", b"free", b"abandoned"}
