"""Sealed commands from the provisioner to guests."""

from __future__ import annotations

from coffer_provisioner.records import PostgresRecords
from coffer_shared import subjects
from coffer_shared.bus import Link, ask_sealed
from coffer_shared.errors import GuestSilent
from coffer_shared.messages import CommandAnswer, Message, decode_command_answer, encode
from coffer_shared.seal import BadEnvelope, KeyPair, Kind, Peer


class GuestLink:
    """`Guests` for plans (see `reach`)."""

    def __init__(self, link: Link, keys: KeyPair, records: PostgresRecords) -> None:
        self._link = link
        self._keys = keys
        self._records = records

    async def send(self, instance: str, command: Message, *, within: float) -> CommandAnswer:
        guest = await self._records.guest(instance)
        if guest is None or guest["xpub"] is None:
            raise GuestSilent("the guest has not enrolled yet")
        peer = Peer("server", self._keys, bytes(guest["xpub"]))
        try:
            body = await ask_sealed(
                self._link, peer, Kind.CMD, subjects.command(instance), encode(command),
                answer=Kind.CMD_ANSWER, timeout=within,
            )
            answer: CommandAnswer = decode_command_answer(body)
        except (BadEnvelope, ValueError) as error:
            raise GuestSilent("the guest's answer does not open") from error
        return answer
