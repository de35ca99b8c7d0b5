"""Slots on a real Galera cluster."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from esxprov.errors import ProvisioningError
from esxprov.slots import rows
from tests.galera.nodes import database_of
from tests.integration.slots_rig import SlotsRig
from tests.testbed.galera import Galera


def test_a_sync_that_another_node_overtakes_is_planned_again(galera: Galera, monkeypatch: pytest.MonkeyPatch) -> None:
    write = rows.write
    overtaken: list[Any] = []

    def late(*arguments: Any) -> Any:
        if not overtaken:
            overtaken.append(True)
            overtaken.append(rig.slots(database=there).sync(rig.current))
        return write(*arguments)

    with closing(SlotsRig(galera.nodes[0])) as rig, closing(database_of(galera.nodes[1])) as there:
        galera.nodes[1].catch_up()
        monkeypatch.setattr(rows, "write", late)
        try:
            plan = rig.sync().plan
        except ProvisioningError:  # told to wait, as the other node's changes are just being applied here
            plan = rig.sync().plan
        assert {change.kind.value for change in plan.changes} == {"keep"}
        assert rig.live_slots() == [f"vm{number:03}.vcl.test" for number in range(1, 119)]
