"""Key sets: whole, signed by the root, and only valid keys are found."""

import msgspec
import pytest
from nacl.signing import SigningKey

from coffer_shared import keyset
from coffer_shared.jwt import to_base64
from coffer_shared.keyset import KeySet, ServiceKey
from coffer_shared.seal import KeyPair

ROOT = bytes(range(32))
PUBLIC = keyset.root_public(ROOT)


def key(service: str, kinds: tuple[str, ...] = (), since: float = 0, until: float = 100) -> ServiceKey:
    return ServiceKey(service, KeyPair.generate().public.hex(), kinds, since, until)


API, PROVISIONER = key("api", ("query",)), key("provisioner", ("start", "cancel", "query", "probe"))
SET = KeySet((API, PROVISIONER), issued_at=10)


def test_round_trip() -> None:
    assert keyset.verify(keyset.sign(SET, ROOT), PUBLIC) == SET


def test_find_and_of() -> None:
    assert SET.find(API.id, 50) is API
    assert SET.find(1, 50) is None
    assert SET.of("api", 50) is API
    assert SET.of("nobody", 50) is None


def test_time_bounds() -> None:
    assert SET.find(API.id, 100) is None
    assert KeySet((key("api", since=60),), 1).valid(59) == ()


def test_the_newest_key_of_a_service_is_used_while_both_are_accepted() -> None:
    old, new = key("api", since=0, until=100), key("api", since=50, until=200)
    both = KeySet((new, old), 1)
    assert both.of("api", 40) is old
    assert both.of("api", 60) is new
    assert both.find(old.id, 60) is old


def forged(body: bytes, root: bytes = ROOT, context: bytes = b"coffer key set v1\n") -> str:
    return f"{to_base64(body)}.{to_base64(SigningKey(root).sign(context + body).signature)}"


GOOD = msgspec.json.encode(SET)
SHORT = msgspec.json.encode(KeySet((ServiceKey("api", "00", (), 0, 1),), 1))
NOT_HEX = msgspec.json.encode(KeySet((ServiceKey("api", "zz" * 32, (), 0, 1),), 1))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("a", id="one part"),
        pytest.param(forged(GOOD) + ".x", id="three parts"),
        pytest.param(forged(GOOD, root=b"x" * 32), id="another root"),
        pytest.param(forged(GOOD, context=b""), id="a signature made for something else"),
        pytest.param(to_base64(GOOD.replace(b"query", b"start")) + "." + forged(GOOD).split(".")[1], id="edited"),
        pytest.param(to_base64(GOOD) + ".", id="no signature"),
        pytest.param(forged(b"{}"), id="not a key set"),
        pytest.param(forged(SHORT), id="a short key"),
        pytest.param(forged(NOT_HEX), id="a key that is not hex"),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError):
        keyset.verify(text, PUBLIC)


@pytest.mark.parametrize("root", ["", "zz", "00" * 31])
def test_a_malformed_root(root: str) -> None:
    with pytest.raises(ValueError):
        keyset.verify(keyset.sign(SET, ROOT), root)
