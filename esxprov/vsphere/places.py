"""Which datacenter a datastore is in, and where a host's VMs go: asked once per session, and again if unknown."""

from __future__ import annotations

from esxprov.errors import ProvisioningError
from esxprov.vsphere import inventory
from esxprov.vsphere.inventory import Home, Place, Survey
from esxprov.vsphere.session import Session


class Places:
    """The answers of one survey. `forget` when the endpoint no longer knows an object from it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._places: dict[str, list[Place]] = {}
        self._homes: dict[str, Home] = {}

    def learn(self, survey: Survey) -> None:
        """Take over what a survey made for another reason found."""
        self._places = survey.places()
        self._homes = survey.homes()

    def _look(self) -> None:
        self.learn(Survey(self._session, inventory.hosts(self._session)))

    def forget(self) -> None:
        self._places = {}
        self._homes = {}

    def of(self, datastore: str) -> Place:
        """Raises `vsphere_fault` for a datastore that the endpoint does not have, or has twice."""
        places = self.all_of(datastore)
        name = self._session.config.name
        if not places:
            known = ", ".join(sorted(self._places)) or "none"
            raise ProvisioningError(
                "vsphere_fault",
                f"{name} has no datastore {datastore!r} (it has: {known}): mount it there, or correct the VM profile",
                detail={"endpoint": name},
            )
        if len({place.url for place in places}) > 1:
            paths = ", ".join(sorted(place.datacenter_path for place in places))
            raise ProvisioningError(
                "vsphere_fault",
                f"{name} has different datastores called {datastore!r} in {paths}: rename all but one",
                detail={"endpoint": name},
            )
        return places[0]

    def all_of(self, datastore: str) -> list[Place]:
        """The datastore in every datacenter that has it; empty if the endpoint does not know it."""
        if datastore not in self._places:
            self._look()
        return self._places.get(datastore, [])

    def home_of(self, host_moid: str) -> Home:
        """Raises `host_unavailable` for a host that is not there any more."""
        if host_moid not in self._homes:
            self._look()
        home = self._homes.get(host_moid)
        if home is None:
            name = self._session.config.name
            raise ProvisioningError(
                "host_unavailable",
                f"{name} has no host {host_moid} any more: it was removed, or added anew with another id",
                detail={"endpoint": name},
                host=f"{name}/{host_moid}",
            )
        return home
