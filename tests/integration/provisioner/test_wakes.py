"""Wakes between services: taken from the services' keys, refused from anybody else's, counted."""

from __future__ import annotations

import pytest

from coffer_shared import subjects
from coffer_shared.messages import Sync, Wake, encode
from coffer_shared.seal import KeyPair, Kind, Peer
from coffer_shared.wake import Waker, receive_wakes
from integration.provisioner.actors import SERVICES, TRUSTED, until

INSTANCE = "33333333-3333-4333-8333-333333333333"


@pytest.fixture
async def woken(server, link):
    heard: list[str] = []
    own = await link(server.service_creds("provisioner", "CTL"), "provisioner", "_INBOX.provisioner")
    await receive_wakes(own, SERVICES["provisioner"], TRUSTED, heard.append)
    return own, heard


@pytest.mark.parametrize("service", ["api", "status-collector", "backup-scheduler"])
async def test_a_service_wakes_the_provisioner(server, link, woken, service):
    own, heard = woken
    sender = await link(server.service_creds(service, "CTL"), service)
    await Waker(sender, SERVICES[service], SERVICES["provisioner"].public).wake(INSTANCE, "op")
    await until(lambda: heard)
    assert heard == [INSTANCE]
    assert (own.counters["wakes"], own.counters["wakes_refused"]) == (1, 0)


async def test_what_no_service_sealed_wakes_nobody(server, link, woken):
    own, heard = woken
    sender = await link(server.service_creds("api", "CTL"), "api")
    to, other = subjects.wake(INSTANCE), subjects.wake("44444444-4444-4444-8444-444444444444")
    provisioner, body = SERVICES["provisioner"], encode(Wake(op="op"))
    api = Peer("client", SERVICES["api"], provisioner.public)
    refused = [
        (to, Peer("client", KeyPair.generate(), provisioner.public).seal(Kind.WAKE, to, body)),
        (to, Peer("client", provisioner, provisioner.public).seal(Kind.WAKE, to, body)),
        (other, api.seal(Kind.WAKE, to, body)),
        (to, api.seal(Kind.EVENT, to, body)),
        (to, api.seal(Kind.WAKE, to, encode(Sync(version="1")))),
        (to, api.seal(Kind.WAKE, to, b'{"t":"wake","op":"\xff"}')),
        ("ctl.everybody.wake", api.seal(Kind.WAKE, "ctl.everybody.wake", body)),
        (to, b""), (to, b"x" * 300),
    ]
    for subject, data in refused:
        await sender.publish(subject, data)
    await until(lambda: own.counters["wakes_refused"] == len(refused))
    assert heard == []
    await sender.publish(to, api.seal(Kind.WAKE, to, body))
    await until(lambda: heard)
    assert own.counters["wakes"] == 1


async def test_a_broker_that_is_away_costs_the_caller_nothing(server, link):
    sender = await link(server.service_creds("api", "CTL"), "api")
    await sender.close(grace=0)
    await Waker(sender, SERVICES["api"], SERVICES["provisioner"].public).wake(INSTANCE)
    assert not sender.connected
