"""Who may do what: tokens, and whose blobs there are, in the store's database.

A token reads `gf_ID_SECRET`. The secret has 256 random bits, so its SHA-256 is all that is kept. Revoked and expired ones
stay, so that a service which ever had a token is never open again by mistake. Times and randomness come from the caller.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, or_, select, update

from graphir.errors import LimitError, Unauthorized
from scheduler.job.naming import check_named
from scheduler.job.store import Store
from scheduler.job.tables import StoreError, holdings, insert_new_value, tokens

SCOPES = ("read", "submit", "metrics")
"""read: look at one's jobs and blobs; submit: upload, submit and cancel; metrics: the figures of the whole service."""
_HELD = select(func.coalesce(func.sum(holdings.c.bytes), 0)).where(holdings.c.owner == bindparam("owner"))
_TOKEN = re.compile(r"gf_([0-9a-f]{16})_([0-9a-f]{64})")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token, which is not the token."""

    id: str
    owner: str
    scopes: tuple[str, ...]
    created: float
    expires: float | None
    revoked: float | None

    def is_valid(self, now: float) -> bool:
        """Neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class Access:
    """Tokens and holdings of one store. May be used by several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(
        self, owner: str, scopes: Sequence[str], now: float, lifetime: float | None, entropy: Callable[[int], bytes]
    ) -> str:
        """A new token of this user, which is told this once."""
        if not _OWNER.fullmatch(owner):
            raise StoreError(f"{owner[:140]!r} cannot name a user; take at most 128 letters, digits and ._@+-")
        wrong = [scope for scope in scopes if scope not in SCOPES]
        if wrong or not scopes:
            raise StoreError(f"a token has scopes of {', '.join(SCOPES)}, not {', '.join(wrong) or 'none'}")
        id, secret = entropy(8).hex(), entropy(32).hex()
        row = {
            "id": id, "owner": owner, "secret": _hashed(secret), "scopes": " ".join(dict.fromkeys(scopes)),
            "created": now, "expires": None if lifetime is None else now + lifetime,
        }  # fmt: skip
        with self._store.transaction(writes=True, promises=True) as connection:
            connection.execute(insert(tokens), row)
        return f"gf_{id}_{secret}"

    def revoke(self, which: str, now: float) -> int:
        """End the token with this id, or all of this user; how many that were."""
        chosen = or_(tokens.c.id == which, tokens.c.owner == which)
        query = update(tokens).where(chosen, tokens.c.revoked.is_(None)).values(revoked=now)
        with self._store.transaction(writes=True, promises=True) as connection:
            return connection.execute(query).rowcount

    def tokens(self) -> list[Token]:
        """All tokens there ever were, the oldest first."""
        with self._store.transaction() as connection:
            rows = connection.execute(select(tokens).order_by(tokens.c.created, tokens.c.id)).all()
        return [_token(row) for row in rows]

    def is_open(self) -> bool:
        """Whether there never was a token."""
        with self._store.transaction() as connection:
            return connection.execute(select(tokens.c.id).limit(1)).one_or_none() is None

    def check(self, text: str, now: float) -> Token:
        """The token in these words, or Unauthorized, which does not say what was wrong."""
        match = _TOKEN.fullmatch(text)
        row = None
        if match is not None:
            with self._store.transaction() as connection:
                row = connection.execute(select(tokens).where(tokens.c.id == match[1])).one_or_none()
        if match is None or row is None or not hmac.compare_digest(row.secret, _hashed(match[2])):
            raise Unauthorized("the token is not known here; ask whoever runs the service for one")
        token = _token(row)
        if not token.is_valid(now):
            raise Unauthorized("the token is expired or revoked; ask whoever runs the service for another one")
        return token

    def hold(self, owner: str, digest: str, size: int, now: float, most: int | None = None) -> None:
        """This user has sent these bytes, or asked whether they are here, and has at most so many in all.

        Raises ValueGone if they were removed meanwhile, and LimitError.
        """
        his = (holdings.c.owner == owner) & (holdings.c.digest == digest)
        with self._store.transaction(writes=True, promises=True) as connection:
            if not connection.execute(update(holdings).where(his).values(created=now)).rowcount:
                row = {"owner": owner, "digest": digest, "bytes": size, "created": now}
                connection.execute(insert_new_value(connection.dialect.name, holdings), row)
                held = connection.execute(_HELD, {"owner": owner}).scalar_one()
                if most is not None and held > most:
                    raise LimitError(f"your blobs have more than {most} bytes, the limit; ask the operator for more")
            check_named(connection, {digest}, self._store.kept)

    def since(self, owner: str, digest: str) -> float | None:
        """When this user sent the bytes of a blob, or asked about them, last."""
        query = select(holdings.c.created).where(holdings.c.owner == owner, holdings.c.digest == digest)
        with self._store.transaction() as connection:
            return connection.execute(query).scalar_one_or_none()

    def size(self, owner: str, digest: str) -> int | None:
        """The bytes of a blob that this user has, or None."""
        query = select(holdings.c.bytes).where(holdings.c.owner == owner, holdings.c.digest == digest)
        with self._store.transaction() as connection:
            found = connection.execute(query).scalar_one_or_none()
        return None if found is None else int(found)

    def held(self, owner: str) -> int:
        """The bytes of all blobs that this user has."""
        with self._store.transaction() as connection:
            return int(connection.execute(_HELD, {"owner": owner}).scalar_one())


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _token(row: Row[Any]) -> Token:
    return Token(row.id, row.owner, tuple(row.scopes.split()), row.created, row.expires, row.revoked)
