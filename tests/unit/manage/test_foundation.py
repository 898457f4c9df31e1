"""What the first start lays out: the same secrets every time, and to each service its own files alone."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import stat
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
import yaml
from cryptography import x509

from coffer_api.htpasswd import parse
from coffer_db import roles
from coffer_db.secrets import MasterKey, MasterPublicKey
from coffer_manage import foundation, keystone, object_store
from coffer_manage.foundation import (
    DATABASE_ROLES,
    DEVELOPMENT_USERS,
    SENDS,
    SERVICE_UID,
    UIDS,
    Foundation,
    FoundationError,
)
from coffer_provisioner.account import TEMPLATES
from coffer_shared import identity, jwt
from coffer_shared.keyset import verify
from coffer_shared.nkeys import Kind, NKey
from coffer_shared.seal import KeyPair
from support.nats_server import binary

URLS, DOOR = ("tls://nats:4222",), "https://door:8443/renew"
STORE = object_store.Address("http://swift:8080", "http://swift.coffer:8080")

_DATABASE = {"database-password", "ca.pem"}
_SEALING = {"key", "control.creds", "keyset", "root.pub"}
FILES = {
    "operator": {"foundation.json", "users.json", "keystone.json"},
    "postgres": {"password"},
    "manage": {"database-password", "role-passwords.json", "master-fingerprint"},
    "nats": {"server.conf", "server.key", "server.pem"},
    "swift": {"users.conf"},
    "api": _DATABASE | _SEALING | {"guests.creds", "master.pub", "htpasswd"},
    "provisioner": _DATABASE | _SEALING | {
        "guests.creds", "master.key", "guest-signing.seed", "boot-signing.seed", "accounts.json", "installation.json",
        "storage.json",
    },
    "door": _DATABASE | {"guest-signing.seed", "accounts.json", "server.key", "server.pem"},
    "revoker": _DATABASE | {"system.creds", "operator-signing.seed", "accounts.json"},
    "backup-scheduler": _DATABASE | _SEALING,
    "status-collector": _DATABASE | _SEALING | {"guests.creds"},
    "keystone": {"keystone.json"},
    "api-keystone": {"clouds.yaml"},
}


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("state")
    assert foundation.lay(path, nats_urls=URLS, renewal_url=DOOR, store=STORE)
    return path


@pytest.fixture(scope="module")
def found(state) -> Foundation:
    return msgspec.json.decode((state / "operator" / "foundation.json").read_bytes(), type=Foundation)


def test_each_service_has_its_files_and_no_others(state):
    laid = {folder.name: {file.name for file in folder.iterdir()} for folder in state.iterdir()}
    assert laid == FILES


def test_every_file_is_readable_by_its_one_owner_only(state):
    for file in state.rglob("*"):
        if file.is_dir():
            continue
        assert stat.S_IMODE(file.stat().st_mode) == 0o400, file
        assert stat.S_IMODE(file.parent.stat().st_mode) in {0o500, 0o700}, file
    if os.geteuid() == 0:
        owners = {folder.name: {f.stat().st_uid for f in (folder, *folder.iterdir())} for folder in state.iterdir()}
        assert owners == {folder: {UIDS.get(folder, SERVICE_UID)} for folder in FILES}


def test_a_second_start_keeps_every_secret(state, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(state, again)
    assert not foundation.lay(again, nats_urls=URLS, renewal_url=DOOR, store=STORE)
    anew = {
        "control.creds", "guests.creds", "system.creds", "server.key", "server.pem", "server.conf", "keyset",
    }
    for service, names in FILES.items():
        for name in names - anew:
            assert (again / service / name).read_bytes() == (state / service / name).read_bytes(), (service, name)
    first, second = ((p / "nats" / "server.conf").read_text() for p in (state, again))
    assert _line(first, "system_account") == _line(second, "system_account")


def test_what_is_expected_is_what_is_laid(state, found):
    laid = {service: names - {"storage.json"} for service, names in FILES.items() if service != "swift"}
    assert foundation.expected(found) == laid


def test_the_file_of_users_is_the_operators_own_once_it_is_there(state, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(state, again)
    file = again / "api" / "htpasswd"
    file.chmod(0o600)
    file.write_text("# nobody\n")
    foundation.lay(again, nats_urls=URLS, renewal_url=DOOR, store=STORE)
    assert file.read_text() == "# nobody\n"


def test_a_second_start_changes_what_is_not_secret(state, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(state, again)
    foundation.lay(again, nats_urls=("tls://a:1", "tls://b:1"), renewal_url="https://c/renew", store=STORE)
    told = json.loads((again / "provisioner" / "installation.json").read_bytes())
    assert told == {"nats_urls": ["tls://a:1", "tls://b:1"], "renewal_url": "https://c/renew"}


def test_certificates_name_what_guests_know_the_servers_by(state, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(state, again)
    foundation.lay(
        again, nats_urls=("tls://192.0.2.7:4222", "tls://nats.example.org:4222"),
        renewal_url="https://192.0.2.8:8443/renew", store=STORE,
    )
    for service, name in (("nats", "192.0.2.7"), ("nats", "nats.example.org"), ("nats", "nats"), ("door", "192.0.2.8")):
        assert _handshake(again, service, name) is None
    assert "mismatch" in str(_handshake(again, "nats", "192.0.2.8"))


def test_an_installation_of_an_earlier_release_is_completed_once(state, tmp_path):
    """What it has stays; what it lacks is drawn by the first start after it, and not by the second."""
    path = tmp_path / "operator" / "foundation.json"
    path.parent.mkdir()
    earlier = json.loads((state / "operator" / "foundation.json").read_bytes())
    del earlier["store_keys"], earlier["users"]["other"], earlier["service_keys"]["backup-scheduler"]
    path.write_text(json.dumps(earlier))

    assert not foundation.lay(tmp_path, nats_urls=URLS, renewal_url=DOOR, store=STORE)
    completed = json.loads(path.read_bytes())
    assert set(completed["store_keys"]) == {
        "coffer:setup", "coffer:backup", "admin:admin", "demo:demo", "other:other",
    }
    kept = json.loads(path.read_bytes())
    for part, name in (("users", "other"), ("service_keys", "backup-scheduler")):
        assert len(kept[part].pop(name)) >= 24
    del kept["store_keys"]
    assert kept == earlier
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    told = json.loads((tmp_path / "provisioner" / "storage.json").read_bytes())["swift"]
    assert told["setup_key"] == completed["store_keys"]["coffer:setup"]
    assert told["key"] == completed["store_keys"]["coffer:backup"]

    assert not foundation.lay(tmp_path, nats_urls=URLS, renewal_url=DOOR, store=STORE)
    assert json.loads(path.read_bytes()) == completed


@pytest.mark.parametrize("content", ["", "{", '{"operator": "SO"}'])
def test_a_damaged_file_is_neither_completed_nor_drawn_again(tmp_path, content):
    path = tmp_path / "operator" / "foundation.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(FoundationError, match="damaged"):
        foundation.lay(tmp_path, nats_urls=URLS, renewal_url=DOOR, store=STORE)
    assert path.read_text() == content
    assert [folder.name for folder in tmp_path.iterdir()] == ["operator"]


def test_without_an_object_store_nobody_is_told_of_one(tmp_path):
    foundation.lay(tmp_path, nats_urls=URLS, renewal_url=DOOR)
    assert not (tmp_path / "swift").exists()
    assert not (tmp_path / "provisioner" / "storage.json").exists()
    foundation.lay(tmp_path, nats_urls=URLS, renewal_url=DOOR, store=STORE)
    assert (tmp_path / "swift" / "users.conf").exists()


def test_an_installation_may_begin_with_the_master_key_of_another(state, tmp_path):
    master = foundation.master_key(state)
    foundation.adopt(tmp_path, master)
    foundation.lay(tmp_path, nats_urls=URLS, renewal_url=DOOR, store=STORE)
    assert (tmp_path / "provisioner" / "master.key").read_text() == master.private_bytes().hex()
    assert (tmp_path / "api" / "master.pub").read_bytes() == (state / "api" / "master.pub").read_bytes()
    ours, theirs = (json.loads((p / "operator" / "foundation.json").read_bytes()) for p in (state, tmp_path))
    assert ours.pop("master") == theirs.pop("master")
    assert _strings(ours) & _strings(theirs) == set()


def test_an_installation_keeps_the_master_key_that_it_began_with(state, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(state, again)
    foundation.adopt(again, foundation.master_key(state))
    with pytest.raises(FoundationError, match=foundation.master_key(state).public.fingerprint):
        foundation.adopt(again, MasterKey.generate())
    assert foundation.load(again) == foundation.load(state)


def test_two_installations_share_no_secret(state, tmp_path):
    foundation.lay(tmp_path, nats_urls=URLS, renewal_url=DOOR, store=STORE)
    ours, theirs = (_strings(json.loads((p / "operator" / "foundation.json").read_bytes())) for p in (state, tmp_path))
    assert ours & theirs == set()
    assert len(ours) > 30


def test_no_secret_is_where_it_does_not_belong(state, found):
    allowed = {
        found.operator: set(), found.root: set(), found.authority_key: set(),
        found.operator_signing: {"revoker"},
        found.master: {"provisioner"},
        found.signing["GUESTS"]["boot"]: {"provisioner"},
        found.signing["GUESTS"]["guest"]: {"provisioner", "door"},
        found.database_passwords["postgres"]: {"postgres", "manage"},
    }
    allowed |= {key: {service} for service, key in found.service_keys.items()}
    allowed |= {found.database_passwords[s]: {s, "manage"} for s in DATABASE_ROLES}
    allowed |= {seed: set() for seed in found.accounts.values()}
    allowed |= {
        seed: set() for account, signing in found.signing.items() for role, seed in signing.items()
        if (account, role) not in {("GUESTS", "guest"), ("GUESTS", "boot")}
    }
    allowed |= {password: set() for password in found.users.values()}
    allowed |= {
        key: {"swift", "provisioner"} if user in {object_store.SETUP, object_store.BACKUP} else {"swift"}
        for user, key in found.store_keys.items()
    }
    allowed |= {
        password: {"keystone", "api-keystone"} if user == keystone.SERVICE.name else {"keystone"}
        for user, password in found.keystone.items()
    }
    holders: dict[str, set[str]] = {secret: set() for secret in allowed}
    for file in state.rglob("*"):
        if file.is_file() and file.parent.name != "operator":
            content = file.read_text()
            for secret in allowed:
                if secret in content or secret.strip() in content:
                    holders[secret].add(file.parent.name)
    assert holders == allowed


def test_the_stack_gives_each_folder_to_its_service_alone():
    """Only `init`, which has no network, sees what no service mounts."""
    stack = yaml.safe_load((Path(__file__).parents[3] / "docker-compose.yml").read_text())["services"]
    mounts: dict[str, set[str]] = {}
    for service, settings in stack.items():
        for volume in settings.get("volumes", ()):
            source, _, rest = volume.partition(":")
            if source.startswith("state-"):
                mounts.setdefault(source, set()).add(service)
                if service != "init":
                    assert rest.endswith(":ro"), volume
    assert {source: services - {"init"} for source, services in mounts.items()} == {
        "state-operator": set(), "state-postgres": {"postgres"}, "state-manage": {"migrate"}, "state-nats": {"nats"},
        "state-swift": {"swift"},
        "state-api": {"api", "api-keystone"}, "state-keystone": {"keystone"}, "state-api-keystone": {"api-keystone"},
        "state-provisioner": {"provisioner"}, "state-door": {"door"},
        "state-revoker": {"revoker"}, "state-scheduler": {"backup-scheduler"}, "state-collector": {"status-collector"},
    }
    assert stack["init"]["network_mode"] == "none"


@pytest.mark.parametrize(("service", "file", "account", "role"), [
    *((s, "control.creds", "CTL", s) for s in SENDS),
    *((s, "guests.creds", "GUESTS", s) for s in ("api", "provisioner", "status-collector")),
    ("revoker", "system.creds", "SYS", "revoker"),
])
def test_credentials_are_of_the_one_role(state, found, service, file, account, role):
    creds = identity.load(state / service / file)
    signer = NKey.from_seed(found.signing[account][role]).public
    claims = jwt.decode(creds.jwt, issuers=[signer], now=time.time())
    assert claims.subject == creds.nkey
    assert claims.nats["issuer_account"] == NKey.from_seed(found.accounts[account]).public
    assert claims.nats["tags"] == []
    assert claims.expires_at > time.time() + 300 * 86400
    preloaded = jwt.decode(_preload(state)[claims.nats["issuer_account"]])
    scope = next(s for s in preloaded.nats["signing_keys"] if s["key"] == signer)
    template = TEMPLATES[account][role]
    assert scope["role"] == role
    assert scope["template"]["pub"].get("allow", []) == list(template.publish)
    assert scope["template"]["sub"].get("allow", []) == list(template.subscribe)


def test_accounts_are_signed_by_the_operators_signing_key_only(state, found):
    signer = NKey.from_seed(found.operator_signing).public
    preload = _preload(state)
    assert set(preload) == {NKey.from_seed(seed).public for seed in found.accounts.values()}
    for account, token in preload.items():
        assert jwt.decode(token, issuers=[signer]).subject == account
    told = json.loads((state / "revoker" / "accounts.json").read_bytes())
    assert {a["public"] for a in told.values()} == set(preload)
    assert all(NKey.from_seed(found.signing[a][r]).public == keys[0]
               for a, known in told.items() for r, keys in known["signing"].items())
    assert NKey.from_seed((state / "revoker" / "operator-signing.seed").read_text()).kind is Kind.OPERATOR


def test_nats_takes_the_configuration(state, tmp_path):
    for name in ("server.conf", "server.key", "server.pem"):
        text = (state / "nats" / name).read_text().replace("/etc/coffer", str(tmp_path))
        (tmp_path / name).write_text(text.replace("/var/lib/nats/accounts", str(tmp_path / "accounts")))
    told = subprocess.run(
        [binary(), "-t", "-c", str(tmp_path / "server.conf")], capture_output=True, text=True, check=False, timeout=20,
    )
    assert told.returncode == 0, told.stderr
    assert "is valid" in told.stderr + told.stdout


@pytest.mark.parametrize(("service", "name"), [("nats", "nats"), ("door", "door"), ("nats", "127.0.0.1")])
def test_certificates_come_from_the_authority_and_name_their_server(state, service, name):
    assert _handshake(state, service, name) is None
    assert "mismatch" in str(_handshake(state, service, "postgres"))
    cert = x509.load_pem_x509_certificate((state / service / "server.pem").read_bytes())
    ca = x509.load_pem_x509_certificate((state / "api" / "ca.pem").read_bytes())
    cert.verify_directly_issued_by(ca)


def test_the_key_set_names_every_service_and_what_it_may_send(state, found):
    root = (state / "provisioner" / "root.pub").read_text()
    trusted = verify((state / "api" / "keyset").read_text(), root)
    own = {s: KeyPair.from_private(bytes.fromhex((state / s / "key").read_text())).public.hex() for s in SENDS}
    assert {k.service: (k.public, k.kinds) for k in trusted.keys} == {s: (own[s], SENDS[s]) for s in SENDS}
    assert {(state / s / "keyset").read_text() for s in SENDS} == {(state / "api" / "keyset").read_text()}
    assert SENDS["api"] == ("query",)
    assert trusted.of("provisioner", time.time())


def test_what_the_api_seals_the_provisioner_opens(state):
    public = MasterPublicKey(bytes.fromhex((state / "api" / "master.pub").read_text()))
    master = MasterKey(bytes.fromhex((state / "provisioner" / "master.key").read_text()))
    assert master.unwrap("operation/1", public.wrap("operation/1", {"a": "b"})) == {"a": "b"}


def test_every_role_of_the_database_has_a_password(state):
    passwords = json.loads((state / "manage" / "role-passwords.json").read_bytes())
    assert set(passwords) == set(roles.GRANTS)
    assert len(set(passwords.values())) == len(passwords)
    for service, role in DATABASE_ROLES.items():
        assert (state / service / "database-password").read_text() == passwords[role]


def test_htpasswd_holds_bcrypt_hashes_of_the_users_that_the_operator_knows(state):
    known = json.loads((state / "operator" / "users.json").read_bytes())
    users = parse((state / "api" / "htpasswd").read_text())
    lines = [line.split(":") for line in (state / "api" / "htpasswd").read_text().splitlines()]
    assert [(name, project, given) for name, _, project, given in lines] == list(DEVELOPMENT_USERS)
    for name, hashed, project, _ in lines:
        assert hashed.startswith("$2b$10$")
        assert users.check(name, known[name]["password"].encode()).project == known[name]["project"] == project
        assert users.check(name, b"another") is None


def _handshake(state: Path, service: str, name: str) -> str | None:
    """Why a client that trusts the authority does not talk to `service` as `name`; None if it does."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(state / service / "server.pem", state / service / "server.key")
    asking = ssl.create_default_context(cafile=str(state / "api" / "ca.pem"))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    client = asking.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(5):
        done = 0
        for side in (client, server):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return str(error)
        if done == 2:
            return None
    raise AssertionError("the handshake does not end")


def _preload(state: Path) -> dict[str, str]:
    text = (state / "nats" / "server.conf").read_text()
    block = text.split("resolver_preload {\n")[1].split("}\n")[0]
    return {line.split(":")[0].strip(): json.loads(line.split(":", 1)[1]) for line in block.splitlines()}


def _line(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(word))


def _strings(value: object) -> set[str]:
    if isinstance(value, dict):
        return set().union(*(_strings(v) for v in value.values()))
    return {str(value)}
