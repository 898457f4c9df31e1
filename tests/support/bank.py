"""A bank in a tenant's database: accounts, and a ledger of transfers that one writer commits in order.

A copy taken while the writer runs must be the bank after some transfer: the ledger up to there, and balances that
follow from it. One client only, so that the numbers of the ledger are the order of the commits.
"""

from __future__ import annotations

import secrets
import subprocess
from dataclasses import dataclass, field

from support.stack import eventually, psql, run

ACCOUNTS = 1000
_MAKE = """
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE ledger (seq bigserial PRIMARY KEY, debit int, credit int, amount int);
INSERT INTO account SELECT n, 1000 FROM generate_series(1, {accounts}) n;
CREATE TABLE static AS SELECT n, md5(n::text) || md5((n + 1)::text) AS text FROM generate_series(1, {rows}) n;
CREATE FUNCTION transfer(a int, b int, amt int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE account SET balance = balance - amt WHERE id = a;
    UPDATE account SET balance = balance + amt WHERE id = b;
    INSERT INTO ledger (debit, credit, amount) VALUES (a, b, amt);
END $$;
"""
_SCRIPT = "\\set a random(1, 1000)\n\\set b random(1, 1000)\n\\set n random(1, 50)\nSELECT transfer(:a, :b, :n);\n"
_WRONG = """
SELECT count(*) FROM account a
LEFT JOIN (SELECT id, sum(d) AS d FROM (
    SELECT debit AS id, -amount AS d FROM ledger UNION ALL SELECT credit, amount FROM ledger) x GROUP BY id) y
ON a.id = y.id WHERE a.balance <> 1000 + coalesce(y.d, 0)
"""
STATIC = "SELECT count(*) || ' ' || sum(hashtextextended(n || text, 0)::numeric) FROM static"


@dataclass(slots=True)
class Bank:
    """Of one instance, reached as the tenant's user. `value` asks it something."""

    host: str
    user: str
    password: str = field(repr=False)
    database: str
    _writer: tuple[str, subprocess.Popen[str]] | None = None

    def value(self, statement: str) -> str:
        return psql(self.host, self.user, self.password, self.database, statement)

    def make(self, *, rows: int) -> None:
        self.value(_MAKE.format(accounts=ACCOUNTS, rows=rows))

    def last(self) -> int:
        return int(self.value("SELECT coalesce(max(seq), 0) FROM ledger"))

    def ledger(self) -> list[str]:
        """Every transfer as text, in order."""
        rows = self.value("SELECT seq || ' ' || debit || ' ' || credit || ' ' || amount FROM ledger ORDER BY seq")
        return rows.splitlines()

    def wrong_accounts(self) -> int:
        return int(self.value(_WRONG))

    def start_writing(self, *, seconds: int) -> None:
        """At most for that long; `stop_writing` ends it."""
        name = f"bank-{secrets.token_hex(4)}"
        script = (
            'umask 077; head -n 1 > /tmp/pass; printf %s "$SCRIPT" > /tmp/transfer.sql; '
            'PGPASSFILE=/tmp/pass exec pgbench -n -c 1 --rate 300 -f /tmp/transfer.sql "$@"'
        )
        writer = subprocess.Popen(
            ["docker", "run", "-i", "--rm", "--name", name, "--network", "host", "--user", "0:0",
             "-e", f"SCRIPT={_SCRIPT}", "--entrypoint", "sh", "coffer/postgres:17", "-c", script, "pgbench",
             "-h", self.host, "-U", self.user, "-T", str(seconds), self.database],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
        )
        assert writer.stdin is not None
        writer.stdin.write(f"{self.host}:5432:*:{self.user}:{self.password}\n")
        writer.stdin.close()
        self._writer = name, writer
        before = self.last()
        eventually(lambda: self.last() > before, within=20, what="the writer commits")

    def stop_writing(self) -> None:
        if self._writer is not None:
            name, writer = self._writer
            run("docker", "rm", "-f", "-v", name, check=False)
            writer.wait(20)
            self._writer = None
