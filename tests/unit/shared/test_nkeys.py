"""nkeys against known texts, round trips, and everything that is not one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer_shared.nkeys import Kind, NKey, public_kind, verify

raw_keys = st.binary(min_size=32, max_size=32)
kinds = st.sampled_from(list(Kind))


def test_text_form_is_the_one_of_nats() -> None:
    """Prefix letters, seed letters and lengths as every NATS tool writes them."""
    letters = {Kind.OPERATOR: "O", Kind.ACCOUNT: "A", Kind.USER: "U"}
    for kind, letter in letters.items():
        key = NKey(kind, bytes(32))
        assert key.public[0] == letter
        assert len(key.public) == 56
        assert key.seed[:2] == "S" + letter
        assert len(key.seed) == 58


def test_known_seed() -> None:
    key = NKey.from_seed("SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU")

    assert key.kind is Kind.USER
    assert key.public == "UCK5N7N66OBOINFXAYC2ACJQYFSOD4VYNU6APEJTAVFZB2SVHLKGEW7L"


@given(kinds, raw_keys)
def test_seed_round_trip(kind: Kind, raw: bytes) -> None:
    key = NKey(kind, raw)
    again = NKey.from_seed(key.seed)

    assert (again.kind, again.public, again.seed) == (kind, key.public, key.seed)
    assert public_kind(key.public) is kind


@given(kinds, raw_keys, st.binary(max_size=64))
def test_signature_verifies_and_is_bound_to_the_data(kind: Kind, raw: bytes, data: bytes) -> None:
    key = NKey(kind, raw)
    signature = key.sign(data)
    verify(key.public, data, signature)

    with pytest.raises(ValueError, match="signature"):
        verify(key.public, data + b"x", signature)


@given(raw_keys, st.integers(0, 55), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_one_changed_letter_is_refused(raw: bytes, at: int, letter: str) -> None:
    public = NKey(Kind.USER, raw).public
    if public[at] == letter:
        return
    with pytest.raises(ValueError):
        public_kind(public[:at] + letter + public[at + 1 :])


@pytest.mark.parametrize("text", ["", "U", "UAAA", "ü" * 56, "u" * 56, "B" * 56, NKey.generate(Kind.USER).seed])
def test_not_a_public_key(text: str) -> None:
    with pytest.raises(ValueError):
        public_kind(text)


@pytest.mark.parametrize("text", ["", "SU", NKey.generate(Kind.USER).public, NKey.generate(Kind.USER).seed.lower()])
def test_not_a_seed(text: str) -> None:
    with pytest.raises(ValueError):
        NKey.from_seed(text)


def test_a_refused_seed_is_not_quoted() -> None:
    seed = NKey.generate(Kind.USER).seed
    with pytest.raises(ValueError) as caught:
        NKey.from_seed(seed[:-1] + "*")
    assert seed[:-1] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_representation_hides_the_seed() -> None:
    key = NKey.generate(Kind.USER)
    assert key.seed not in repr(key)
    assert key.public in repr(key)
