"""Settings from the environment and from files; what is wrong is named and never shown."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from coffer_shared.settings import BadSettings, Patience, load


class Some(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    password: str
    port: int = 5432
    wait: float = 0.5
    enabled: bool = False
    urls: tuple[str, ...] = ()
    numbers: list[int] = []


GIVEN = {"COFFER_NAME": "n", "COFFER_PASSWORD": "p"}


def test_each_field_has_its_variable_and_its_type():
    more = {"COFFER_PORT": "1", "COFFER_WAIT": "2.5", "COFFER_ENABLED": "true", "OTHER": "x", "COFFER_UNKNOWN": "x"}
    got = load(Some, GIVEN | more)
    assert got == Some(name="n", password="p", port=1, wait=2.5, enabled=True)


def test_what_is_not_set_has_its_default():
    assert load(Some, GIVEN) == Some(name="n", password="p")


def test_the_environment_of_the_process_is_the_default(monkeypatch):
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    assert load(Some).name == "n"


@pytest.mark.parametrize(("text", "got"), [
    ("a", ("a",)), ("a,b", ("a", "b")), (" a , b ,", ("a", "b")), ("", ()), (" , ", ()),
])
def test_lists_are_given_with_commas(text, got):
    assert load(Some, GIVEN | {"COFFER_URLS": text}).urls == got


def test_a_lists_items_have_their_type():
    assert load(Some, GIVEN | {"COFFER_NUMBERS": "1, 2"}).numbers == [1, 2]


def test_a_secret_comes_from_a_file(tmp_path):
    (tmp_path / "p").write_text("  s3cret \n")
    assert load(Some, {"COFFER_NAME": "n", "COFFER_PASSWORD_FILE": str(tmp_path / "p")}).password == "s3cret"


def test_the_variable_itself_has_precedence(tmp_path):
    assert load(Some, GIVEN | {"COFFER_PASSWORD_FILE": str(tmp_path / "nowhere")}).password == "p"


def test_what_is_missing_is_named_with_both_its_names():
    with pytest.raises(BadSettings, match=r"COFFER_PASSWORD \(or COFFER_PASSWORD_FILE\) is not set"):
        load(Some, {"COFFER_NAME": "n"})


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BadSettings, match=r"COFFER_PASSWORD_FILE: No such file.*nowhere"):
        load(Some, {"COFFER_NAME": "n", "COFFER_PASSWORD_FILE": str(tmp_path / "nowhere")})


def test_a_file_that_is_not_text_is_named_and_not_shown(tmp_path):
    (tmp_path / "p").write_bytes(b"hunter2\xff")
    with pytest.raises(BadSettings, match="COFFER_PASSWORD_FILE: not text") as caught:
        load(Some, {"COFFER_NAME": "n", "COFFER_PASSWORD_FILE": str(tmp_path / "p")})
    assert _shown(caught.value, "hunter2") == []


@pytest.mark.parametrize(("name", "kind"), [
    ("PORT", "int"), ("WAIT", "float"), ("ENABLED", "bool"), ("NUMBERS", "list"),
])
def test_a_value_of_the_wrong_type_is_named_and_not_shown(name, kind):
    with pytest.raises(BadSettings, match=f"COFFER_{name}: not a value of type {kind}") as caught:
        load(Some, GIVEN | {f"COFFER_{name}": "hunter2"})
    assert _shown(caught.value, "hunter2") == []


def test_a_choice_that_does_not_exist_is_not_shown():
    class Choice(msgspec.Struct):
        mode: Literal["a", "b"]

    with pytest.raises(BadSettings, match="COFFER_MODE: ") as caught:
        load(Choice, {"COFFER_MODE": "hunter2"})
    assert _shown(caught.value, "hunter2") == []


@pytest.mark.parametrize("given", ["0.5", "101", "nan", "inf", "-1", "soon"])
def test_patience_has_its_bounds(given):
    class Slow(msgspec.Struct):
        patience: Patience = 1.0

    with pytest.raises(BadSettings, match="^COFFER_PATIENCE: not a value of type float from 1 to 100$"):
        load(Slow, {"COFFER_PATIENCE": given})
    assert load(Slow, {"COFFER_PATIENCE": "2.5"}).patience == 2.5


def _shown(error: BaseException | None, secret: str) -> list[BaseException]:
    """Whichever error of the chain a traceback would print with the secret in it."""
    found = []
    while error is not None:
        if secret in str(error):
            found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def test_another_prefix_is_another_set_of_variables():
    given = {"COFFER_STORE_NAME": "n", "COFFER_STORE_PASSWORD": "p", "COFFER_PORT": "1"}
    assert load(Some, given, prefix="COFFER_STORE_") == Some(name="n", password="p")
    with pytest.raises(BadSettings, match="COFFER_STORE_PORT"):
        load(Some, given | {"COFFER_STORE_PORT": "x"}, prefix="COFFER_STORE_")
    with pytest.raises(BadSettings, match="COFFER_STORE_NAME"):
        load(Some, GIVEN, prefix="COFFER_STORE_")


def test_no_setting_is_another_ones_file():
    class Both(msgspec.Struct):
        volume: str = ""
        volume_file: str = "/volume/disk.img"

    with pytest.raises(TypeError, match="volume_file"):
        load(Both, {})
