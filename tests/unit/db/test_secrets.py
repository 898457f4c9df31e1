"""The master key: what is sealed opens only with it and only where it belongs."""

from __future__ import annotations

import base64

import pytest

from coffer_db.roles import scram_verifier
from coffer_db.secrets import BadSecret, MasterKey, MasterPublicKey, ProjectKey
from coffer_shared.errors import Refused

KEY = MasterKey.generate()
DATA = {"users": [{"name": "a", "password": "pässword"}], "n": 1}


def test_what_the_public_half_seals_the_private_half_opens() -> None:
    public = MasterPublicKey(bytes(KEY.public))
    blob = public.wrap("operation/1", DATA)
    assert MasterKey(KEY.private_bytes()).unwrap("operation/1", blob) == DATA
    assert "pässword".encode() not in blob
    assert public.wrap("operation/1", DATA) != blob


def test_it_opens_nowhere_else() -> None:
    blob = KEY.public.wrap("operation/1", DATA)
    with pytest.raises(BadSecret, match="belongs elsewhere"):
        KEY.unwrap("operation/2", blob)
    with pytest.raises(BadSecret, match="sealed for master key"):
        MasterKey.generate().unwrap("operation/1", blob)


@pytest.mark.parametrize("place", range(0, 60, 3))
def test_a_damaged_one_does_not_open(place: int) -> None:
    blob = bytearray(KEY.public.wrap("operation/1", DATA))
    blob[place] ^= 1
    with pytest.raises(BadSecret) as raised:
        KEY.unwrap("operation/1", bytes(blob))
    assert "word" not in str(raised.value)
    with pytest.raises(BadSecret):
        KEY.unwrap("operation/1", bytes(blob[:place]))


def test_neither_half_shows_a_key() -> None:
    shown = repr(KEY) + repr(KEY.public) + str(KEY) + str(KEY.public)
    for secret in (KEY.private_bytes(), bytes(KEY.public)):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


def test_a_scram_verifier_is_what_the_standard_computes() -> None:
    # the keys of the example in RFC 7677, section 3
    verifier = scram_verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    assert verifier == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
        "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


@pytest.mark.parametrize("bad", ["", "ü", "a\nb", "a\0"])
def test_passwords_that_need_normalising_are_refused(bad: str) -> None:
    with pytest.raises(Refused):
        scram_verifier(bad)


def test_a_data_key_opens_under_its_own_project_key_and_context_only() -> None:
    master = MasterKey.generate()
    wrapped = ProjectKey.new("p1", master.public)
    key = ProjectKey.opened("p1", wrapped, master)
    blob = key.wrap("backup/1", b"k" * 32)
    assert key.unwrap("backup/1", blob) == b"k" * 32
    assert b"k" * 32 not in blob
    for other, context, given in (
        (key, "backup/2", blob),
        (key, "backup/1", blob[:-1] + bytes([blob[-1] ^ 1])),
        (key, "backup/1", b"\x02" + blob[1:]),
        (key, "backup/1", b"\x01"),
        (ProjectKey.opened("p1", ProjectKey.new("p1", master.public), master), "backup/1", blob),
    ):
        with pytest.raises(BadSecret):
            other.unwrap(context, given)
    with pytest.raises(BadSecret):
        ProjectKey.opened("p2", wrapped, master)
