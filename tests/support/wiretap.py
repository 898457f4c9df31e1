"""Listens on every subject of every NATS account, as somebody could who owns the broker; prints what passes.

Runs in a container of the services image with the installation's own foundation at hand. The signing keys of the
roles make users for it that see all subjects: a guest's role with `*` for its instance, and each service's role.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from functools import partial
from pathlib import Path

import msgspec

from coffer_shared import jwt
from coffer_shared.bus import Delivery, Link, tls_context
from coffer_shared.identity import Credentials
from coffer_shared.lifetime import until_signalled
from coffer_shared.nkeys import Kind, NKey

SUBJECTS = {
    ("GUESTS", "guest"): ("g.*.cmd", "g.*.in.>"),
    ("GUESTS", "boot"): ("e.*.in.>",),
    ("GUESTS", "provisioner"): ("g.*.req", "e.*.enrol", "_INBOX.provisioner.>"),
    ("GUESTS", "status-collector"): ("g.*.hb", "g.*.ev"),
    ("GUESTS", "api"): ("_INBOX.api.>",),
    ("CTL", "provisioner"): ("ctl.*.wake", "_INBOX.provisioner.>"),
    ("CTL", "api"): ("_INBOX.api.>",),
}


async def listen(state: Path, url: str) -> None:
    found = msgspec.json.decode((state / "foundation.json").read_bytes())
    tls = tls_context(found["authority_cert"])
    links = []
    for (account, role), subjects in SUBJECTS.items():
        user = NKey.generate(Kind.USER)
        token = jwt.user(
            user.public, NKey.from_seed(found["signing"][account][role]), name="wiretap",
            account=NKey.from_seed(found["accounts"][account]).public, tags=("iid:*",),
        )
        credentials = Credentials(token, user.seed)
        link = Link((url,), partial(_same, credentials), name=f"wiretap {role}", tls=tls)
        for subject in subjects:
            await link.subscribe_fast(subject, "", heard)
        await link.start()
        links.append(link)
    for link in links:
        await link.ready(20)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await until_signalled()


def _same(credentials: Credentials) -> Credentials:
    return credentials


def heard(message: Delivery) -> None:
    sys.stdout.write(f"heard {message.subject} {base64.b64encode(message.data).decode()}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(listen(Path(sys.argv[1]), sys.argv[2]))
