"""Who has which address, loop device and range of addresses: reservations that Docker itself keeps.

Docker has no ports, no floating IPs and no loop minors to give out, so each is reserved by a small labelled Docker
volume whose name contains the reserved thing, such as `coffer-address-10.213.4.17` or `coffer-loop-87`. Making a volume
is atomic per name, and for a name that exists Docker answers with the one that is there: its labels say who was first.
The names hold for the whole Engine, whatever the stack, since the things belong to the host.

A second volume, the claim, is named after the owner (`coffer-<stack>-<instance>-address`) and says in its labels which
thing the owner has. It decides between two provisioners that serve one owner at once: each reserves something, one of
them makes the claim, the other gives back what it reserved. A crash in between leaves a reservation without a claim,
which goes when the owner gives up the thing.

All of it lives where the machines live. So it survives the provisioner, and a control plane that was restored from
yesterday's backup finds today's reservations; the sweeper finds what is left over by its labels. `docker volume prune`
deletes unused volumes, so it has no place on such a host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coffer_provisioner.cloud.docker_engine import Engine
from coffer_provisioner.cloud.docker_labels import HOLDS, KIND, OWNER, STACK, Kind, Marks, labels_of
from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, Tags

_CLAIMS = {
    Kind.ADDRESS: Kind.ADDRESS_CLAIM,
    Kind.LOOP: Kind.LOOP_CLAIM,
    Kind.PUBLIC: Kind.PUBLIC_CLAIM,
    Kind.SUBNET: Kind.SUBNET_CLAIM,
}
_TRIES = 5


class Reservations:
    def __init__(self, engine: Engine, marks: Marks) -> None:
        self._engine = engine
        self._marks = marks

    async def take(
        self,
        tags: Tags,
        kind: Kind,
        candidates: Iterable[str],
        *,
        owner: str,
        none_left: CloudRefused,
        notes: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Reserve the first free candidate, unless the owner has one. The claim's labels: HOLDS and the notes."""
        for _ in range(_TRIES):
            claim = await self.held(tags, kind, owner=owner)
            if claim is not None:
                return claim
            thing = await self._reserve(tags, kind, candidates, owner, none_left)
            labels = self._marks.labels(tags, _CLAIMS[kind], holds=thing, owner=owner) | dict(notes or {})
            claim = await self._engine.create_volume(self.claim_name(kind, owner), labels)
            if claim.get(HOLDS) == thing:
                return claim
            await self._give_back(kind, thing, owner)
        raise CloudBusy(f"others keep taking what was to be reserved ({kind.value})")

    async def held(self, tags: Tags, kind: Kind, *, owner: str) -> dict[str, str] | None:
        """The owner's claim, if it has one that is worth something. A reservation that got lost is made again."""
        claim = await self.claim(kind, owner)
        if claim is None:
            return None
        labels = await self._engine.create_volume(
            self._thing_name(kind, claim[HOLDS]), self._marks.labels(tags, kind, holds=claim[HOLDS], owner=owner),
        )
        if self._is_owners(labels, owner):
            return claim
        await self._engine.remove_volume(self.claim_name(kind, owner))
        return None

    async def claim(self, kind: Kind, owner: str) -> dict[str, str] | None:
        """The labels of the owner's claim as they are."""
        volume = await self._engine.volume(self.claim_name(kind, owner))
        if volume is None:
            return None
        labels = labels_of(volume)
        if not self._is_owners(labels, owner):
            raise CloudRefused("name_taken", f"the volume {volume['Name']} is not Coffer's: remove or rename it")
        return labels

    async def release(self, kind: Kind, owner: str) -> None:
        """The claim goes first: without it the owner has nothing, whatever happens next."""
        await self._engine.remove_volume(self.claim_name(kind, owner))
        for volume in await self._engine.volumes(self._marks.filters(kind, owner=owner)):
            await self._engine.remove_volume(volume["Name"])

    def claim_name(self, kind: Kind, owner: str) -> str:
        return self._marks.own(owner, kind.value)

    async def _reserve(
        self, tags: Tags, kind: Kind, candidates: Iterable[str], owner: str, none_left: CloudRefused,
    ) -> str:
        taken = {
            volume["Name"]: labels_of(volume) for volume in await self._engine.volumes([f"{KIND}={kind.value}"])
        }
        for thing in candidates:
            name = self._thing_name(kind, thing)
            if name in taken and not self._is_owners(taken[name], owner):
                continue
            labels = await self._engine.create_volume(
                name, self._marks.labels(tags, kind, holds=thing, owner=owner),
            )
            if self._is_owners(labels, owner):
                return thing
        raise none_left

    async def _give_back(self, kind: Kind, thing: str, owner: str) -> None:
        """After losing a race for the claim."""
        claim = await self.claim(kind, owner)
        if claim is None or claim[HOLDS] != thing:
            await self._engine.remove_volume(self._thing_name(kind, thing))

    def _is_owners(self, labels: Mapping[str, str], owner: str) -> bool:
        return labels.get(STACK) == self._marks.stack and labels.get(OWNER) == owner

    @staticmethod
    def _thing_name(kind: Kind, thing: str) -> str:
        return f"coffer-{kind.value}-{thing.replace('/', '-')}"
