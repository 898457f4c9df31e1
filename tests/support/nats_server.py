"""A real nats-server with the product's configuration, accounts and roles, for tests: TLS, a free port, own files."""

from __future__ import annotations

import datetime as dt
import ipaddress
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coffer_provisioner.account import (
    PRELOAD_IAT,
    TEMPLATES,
    AccountKeys,
    AccountName,
    Cluster,
    account_claims,
    server_config,
)
from coffer_provisioner.issuer import Issuer, service_credentials
from coffer_shared import jwt
from coffer_shared.identity import Credentials
from coffer_shared.nkeys import Kind, NKey


def _key(kind: Kind) -> NKey:
    return NKey.generate(kind)


def _signing_keys() -> dict[AccountName, dict[str, NKey]]:
    return {name: {role: _key(Kind.ACCOUNT) for role in roles} for name, roles in TEMPLATES.items()}


@dataclass(frozen=True)
class Keys:
    """Every key of an installation."""

    operator: NKey = field(default_factory=lambda: _key(Kind.OPERATOR))
    operator_signing: NKey = field(default_factory=lambda: _key(Kind.OPERATOR))
    accounts: dict[AccountName, NKey] = field(
        default_factory=lambda: {name: _key(Kind.ACCOUNT) for name in TEMPLATES},
    )
    signing: dict[AccountName, dict[str, NKey]] = field(default_factory=_signing_keys)

    def operator_jwt(self) -> str:
        return jwt.operator(
            self.operator,
            name="test",
            system_account=self.accounts["SYS"].public,
            signing_keys=[self.operator_signing.public],
        )

    def account_jwt(
        self,
        name: AccountName,
        revocations: dict[str, int] | None = None,
        iat: int = PRELOAD_IAT,
        signer: NKey | None = None,
    ) -> str:
        return account_claims(
            name,
            self.accounts[name].public,
            {role: [key.public] for role, key in self.signing[name].items()},
            signer or self.operator_signing,
            revocations=revocations,
            iat=iat,
        )


class NatsServer:
    """`NatsServer.start(tmp_path)`; then `url`, `ca_pem`, `keys`, `issuer`, `service_creds`, `kill`, `start_again`."""

    def __init__(self, directory: Path, keys: Keys, port: int, name: str) -> None:
        self.directory = directory
        self.keys = keys
        self.port = port
        self.name = name
        self.url = f"nats://127.0.0.1:{port}"
        self.log = directory / "log"
        self.config = directory / "nats.conf"
        self.ca_pem = ""
        signing = keys.signing["GUESTS"]
        self.issuer = Issuer(signing["guest"], signing["boot"], keys.accounts["GUESTS"].public)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        tmp_path: Path,
        *,
        keys: Keys | None = None,
        name: str = "nats",
        hosts: tuple[str, ...] = (),
    ) -> NatsServer:
        """`hosts`: names and addresses in the certificate beside localhost. The caller ends it with `kill`."""
        directory = tmp_path / name
        directory.mkdir(parents=True)
        server = cls(directory, keys or Keys(), free_port(), name)
        server.ca_pem = make_certificates(directory, ("127.0.0.1", "localhost", *hosts))
        server.write_config()
        server.start_again()
        return server

    def write_config(self, cluster: Cluster | None = None, listen: str = "") -> None:
        self.config.write_text(
            server_config(
                listen=listen or f"127.0.0.1:{self.port}",
                server_name=self.name,
                cert=self.directory / "cert.pem",
                key=self.directory / "key.pem",
                operator=self.keys.operator_jwt(),
                system_account=self.keys.accounts["SYS"].public,
                preload={self.keys.accounts[name].public: self.keys.account_jwt(name) for name in TEMPLATES},
                accounts_dir=self.directory / "jwt",
                cluster=cluster,
            ),
        )

    def service_creds(self, service: str, account: AccountName = "GUESTS") -> Credentials:
        """Of the roles in `coffer_provisioner.account.TEMPLATES`."""
        return service_credentials(service, self.keys.signing[account][service], self.keys.accounts[account].public)

    def account_keys(self) -> dict[AccountName, AccountKeys]:
        return {
            name: AccountKeys(self.keys.accounts[name].public, {role: (key.public,) for role, key in roles.items()})
            for name, roles in self.keys.signing.items()
        }

    def guest_creds(self, instance: str, ttl: int | None = None) -> Credentials:
        key = _key(Kind.USER)
        return Credentials(self.issuer.guest(instance, key.public, ttl), key.seed)

    def start_again(self) -> None:
        """On the same port, with the files the last run left."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([binary(), "-c", str(self.config)], stdout=log, stderr=log)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                assert self._process.poll() is None, self.log.read_text()[-3000:]
                time.sleep(0.02)
            else:
                return
        raise AssertionError(self.log.read_text()[-3000:])

    def kill(self) -> None:
        """As with kill -9; nothing happens if it is not running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


def binary() -> str:
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    assert found, "nats-server is not installed"
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def make_certificates(directory: Path, hosts: tuple[str, ...]) -> str:
    """ca.pem, cert.pem and key.pem in the directory; the PEM of the authority."""
    ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
    ca = _certificate(ca_name, ca_name, ca_key, ca_key, [(x509.BasicConstraints(ca=True, path_length=0), True)])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nats")])
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    server = _certificate(
        name, ca_name, server_key, ca_key, [(x509.BasicConstraints(ca=False, path_length=None), True), (names, False)]
    )
    ca_pem = ca.public_bytes(serialization.Encoding.PEM)
    (directory / "ca.pem").write_bytes(ca_pem)
    (directory / "cert.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    return ca_pem.decode()


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    extensions: list[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    is_ca = subject == issuer
    usage = x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=9))
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
