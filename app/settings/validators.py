"""Validators of settings, and the types of fields that use them. Pure."""

import base64
import binascii
import re
from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from app import urls
from app.leanplum.actions import DELIVERABLE_ACTIONS, RELAYABLE, validate_extra_action
from app.leanplum.connections import TAKES, is_proxy
from app.settings import units

SEED_BYTES = 32
MOST_SECONDS = 10 * 366 * 86_400  # ten years
SHARED_LIMITS_SCHEMES = {"redis", "rediss", "valkey", "valkeys"}
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
UNKNOWN_POLICIES = ("resend", "hold")
UNENCRYPTED = "clear"  # in the place of the first data key: new bodies are stored unencrypted
DATA_KEY = re.compile(r"(?P<id>[A-Za-z0-9_-]{1,32}):(?P<key>[A-Za-z0-9+/]{43}=)")
# How many names of each kind Leanplum keeps for an app
TAXONOMY = {"events": 500, "states": 500, "params": 200, "attributes": 500}
RELAYED_TAKES = "the actions are " + ", ".join(RELAYABLE)
UNKNOWN_POLICY_TAKES = (
    "must be resend or hold, then exceptions by action, as in resend,track=hold; the actions are "
    + ", ".join(DELIVERABLE_ACTIONS)
)
DATA_KEYS_TAKE = (
    "must be ID:KEY, or several separated by commas, each with an id of its own; KEY is 32 random "
    "bytes in base64, as `openssl rand -base64 32` prints them; with "
    f"{UNENCRYPTED} in the first place, the keys only decrypt"
)


def upstream(url: str) -> str:
    """Validate the URL of Leanplum.

    Keys are part of every body, so only https is allowed, except on a loopback address.
    """
    scheme, host, _, _ = urls.split_url(url)
    if (scheme == "https" and host) or (scheme == "http" and host in LOOPBACK):
        return url
    raise ValueError("must be an https:// URL (http:// only with a loopback address)")


def split_list(text: str) -> list[str]:
    """Return the values of a list that is separated by commas."""
    return [value.strip() for value in text.split(",") if value.strip()]


def split_pairs(text: str) -> list[tuple[str, str]]:
    """Return the pairs of a list such as `a=1,b=2`; without `=` the value is empty."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    return [(name, value) for name, _, value in pairs]


def _database(url: str) -> str:
    urls.parse_database_url(url)
    return url


def _unknown_policy(text: str) -> str:
    default, _, exceptions = text.partition(",")
    known = all(
        action in DELIVERABLE_ACTIONS and policy in UNKNOWN_POLICIES
        for action, policy in split_pairs(exceptions)
    )
    if default not in UNKNOWN_POLICIES or not known:
        raise ValueError(UNKNOWN_POLICY_TAKES)
    return text


def _relayed_actions(text: str) -> str:
    names = split_list(text)
    unknown = [name for name in names if name not in RELAYABLE]
    if unknown:
        raise ValueError(f"{unknown[0]} cannot be relayed; {RELAYED_TAKES}")
    return ",".join(names)


def _extra_actions(text: str) -> str:
    return ",".join(validate_extra_action(name) for name in split_list(text))


def _networks(text: str) -> str:
    for network in split_list(text):
        ip_network(network)
    return text


def _seed(text: SecretStr) -> SecretStr:
    try:
        size = len(base64.b64decode(text.get_secret_value(), validate=True))
    except binascii.Error:
        size = 0
    if size != SEED_BYTES:
        raise ValueError(
            f"must be {SEED_BYTES} random bytes in base64, "
            f"as `openssl rand -base64 {SEED_BYTES}` prints them"
        )
    return text


def _shared_limits_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    scheme, host, _, path = urls.split_url(text)
    only_database = re.fullmatch(r"(/\d*)?", path) and not re.search(r"[?#]", text)
    if scheme not in SHARED_LIMITS_SCHEMES or not host or not only_database:
        raise ValueError(
            "must be valkey:// or redis:// (valkeys:// or rediss:// for TLS), "
            "then [USER:PASSWORD@]HOST:PORT[/DB]"
        )
    return url


def _proxy(url: SecretStr) -> SecretStr:
    if not is_proxy(url.get_secret_value()):
        raise ValueError(TAKES)
    return url


def _data_keys(text: SecretStr) -> SecretStr:
    keys = text.get_secret_value().split(",")
    if keys[0] == UNENCRYPTED:
        keys = keys[1:]
    matches = [DATA_KEY.fullmatch(key) for key in keys]
    ids = {match["id"] for match in matches if match is not None}
    if not matches or len(ids) < len(matches) or UNENCRYPTED in ids:
        raise ValueError(DATA_KEYS_TAKE)
    return text


def _taxonomy_limits(text: str) -> str:
    for kind, limit in split_pairs(text):
        if kind not in TAXONOMY or not limit.isdecimal() or not 0 < int(limit) < 10**6:
            raise ValueError(
                "must be a number of names for each kind, as in events=500,params=200; "
                f"the kinds are {', '.join(TAXONOMY)}"
            )
    return text


Positive = Annotated[int, Field(gt=0)]
Duration = BeforeValidator(units.seconds)
Seconds = Annotated[float, Field(gt=0, le=MOST_SECONDS, allow_inf_nan=False), Duration]
Bytes = Annotated[int, Field(gt=0), BeforeValidator(units.size)]
UpstreamUrl = Annotated[str, AfterValidator(upstream)]
DatabaseUrl = Annotated[str, AfterValidator(_database)]
Networks = Annotated[str, AfterValidator(_networks)]
PathPrefix = Annotated[str, AfterValidator(urls.parse_path_prefix)]
SharedLimitsUrl = Annotated[SecretStr, AfterValidator(_shared_limits_url)]
ProxyUrl = Annotated[SecretStr, AfterValidator(_proxy)]
RelayedActions = Annotated[str, AfterValidator(_relayed_actions)]
ExtraActions = Annotated[str, AfterValidator(_extra_actions)]
UnknownPolicy = Annotated[str, AfterValidator(_unknown_policy)]
Seed = Annotated[SecretStr, AfterValidator(_seed)]
DataKeys = Annotated[SecretStr, AfterValidator(_data_keys)]
TaxonomyLimits = Annotated[str, AfterValidator(_taxonomy_limits)]
