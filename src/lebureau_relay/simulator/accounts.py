"""Who may call the simulated API: users, their keys and cookies, and what each key is allowed.

Pure and seeded: the same seed gives the same secrets, so that a demo can print one and a test can
write one down. They open nothing but a simulator; still they stay out of every repr, because code
under test learns manners from its tools.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

COOKIE: Final = "__Secure-lebureau.session"
READ: Final = "desktop:read"
CAPABILITIES: Final = (READ, "desktop:lifecycle", "desktop:control", "desktop:chat", "kb:read")
# The first user is the demo's: three desktops fill a page without crowding it.
_TIERS: Final = ("pro", "max", "free")
_SECRETS_EACH: Final = 2


@dataclass(frozen=True, slots=True)
class Grant:
    """What a credential is good for."""

    secret: str = field(repr=False)
    user: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User:
    """One account and what opens it.

    `keys` have every capability; `limited_key` may not read desktops: streams refuse it with 403.
    """

    id: str
    email: str
    role: str
    tier: str
    keys: list[str] = field(repr=False)
    limited_key: str = field(repr=False)
    cookies: list[str] = field(repr=False)

    @property
    def key(self) -> str:
        """The first key."""
        return self.keys[0]

    @property
    def cookie(self) -> str:
        """The first session cookie, as a `Cookie` header's value."""
        return f"{COOKIE}={self.cookies[0]}"


class Accounts:
    """The register of users and credentials.

    Secrets are a function of the seed and of the order in which they were made.
    """

    __slots__ = ("_cookies", "_keys", "_made", "_seed", "users")

    def __init__(self, seed: int, users: int) -> None:
        self.users: dict[str, User] = {}
        self._seed = seed
        self._made = 0
        self._keys: dict[str, Grant] = {}
        self._cookies: dict[str, Grant] = {}
        for _ in range(users):
            self.add_user()

    def add_user(self) -> User:
        """A new account with two keys, a limited key and two session cookies."""
        number = len(self.users) + 1
        name = f"user_{number:04d}"
        tier = _TIERS[(number - 1) % len(_TIERS)]
        user = User(name, f"{name}@example.com", "user", tier, [], self._new_key(number), [])
        self.users[name] = user
        self._keys[user.limited_key] = Grant(user.limited_key, name, ("desktop:chat",))
        for _ in range(_SECRETS_EACH):
            self.add_key(name)
            self.add_cookie(name)
        return user

    def add_key(self, user: str, capabilities: Sequence[str] = CAPABILITIES) -> str:
        """A new key for a user. Raises KeyError for an unknown one."""
        account = self.users[user]
        key = self._new_key(int(user.rpartition("_")[2]))
        account.keys.append(key)
        self._keys[key] = Grant(key, user, tuple(capabilities))
        return key

    def add_cookie(self, user: str) -> str:
        """A new session cookie's value for a user. Raises KeyError for an unknown one."""
        account = self.users[user]
        value = self._secret(32)
        account.cookies.append(value)
        self._cookies[value] = Grant(value, user, CAPABILITIES)
        return value

    def revoke(self, secret: str) -> bool:
        """Let a key or a cookie's value open nothing from now on; whether it did until now."""
        known = self._keys.pop(secret, None) or self._cookies.pop(secret, None)
        return known is not None

    def by_key(self, key: str) -> Grant | None:
        """What an API key is good for."""
        return self._keys.get(key)

    def by_cookie(self, value: str) -> Grant | None:
        """What a session cookie's value is good for."""
        return self._cookies.get(value)

    def _new_key(self, user_number: int) -> str:
        return f"lb_k_demo_{user_number:04d}_{self._secret(16)}"

    def _secret(self, digits: int) -> str:
        self._made += 1
        text = f"{self._seed}:{self._made}".encode()
        return hashlib.blake2b(text, digest_size=digits // 2).hexdigest()
