"""One frozen Settings, made once at the edge of what `setting_sources` finds (contract §1)."""

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app import urls
from app.errors import StartRefused
from app.leanplum.actions import DELIVERED, RELAYABLE, validate_extra_action
from app.leanplum.connections import TAKES, Route, is_proxy
from app.leanplum.http_response import MAX_DOWNLOAD_BYTES, MAX_RESPONSE_BYTES
from app.model import KeyKind
from app.settings import sources, units

SEED_BYTES = 32
SHARED = {"redis", "rediss", "valkey", "valkeys"}
URLS = {
    "gateway_database_url",
    "gateway_shared_limits_url",
    "gateway_upstream_proxy",
    "leanplum_api_url",
}  # may have a password in them
POLICIES = ("resend", "hold")
IN_CLEAR = "clear"  # in the place of a data key: what is new lies in clear
DATA_KEY = re.compile(r"(?P<id>[A-Za-z0-9_-]{1,32}):(?P<key>[A-Za-z0-9+/]{43}=)")
RELAYED_TAKES = "the actions are " + ", ".join(RELAYABLE)
# Names that Leanplum keeps of an app
TAXONOMY = {"events": 500, "states": 500, "params": 200, "attributes": 500}


def upstream(url: str) -> str:
    """Leanplum takes keys in the body, so only https may carry them; plain http is for this machine
    alone.
    """
    scheme, host, _, _ = urls.split(url)
    local = host in {"127.0.0.1", "localhost", "::1"}
    if (scheme == "https" and host) or (scheme == "http" and local):
        return url
    raise ValueError("takes an https:// URL (http:// only for a loopback address)")


def _database(url: str) -> str:
    urls.database_url(url)
    return url


def _unknown_policy(text: str) -> str:
    """`resend` or `hold`, then exceptions by action. Raises ValueError."""
    default, _, exceptions = text.partition(",")
    pairs = [one.partition("=") for one in exceptions.split(",") if one]
    if default in POLICIES and all(
        name in DELIVERED and value in POLICIES for name, _, value in pairs
    ):
        return text
    raise ValueError(
        "takes resend or hold, then exceptions by action, as in resend,track=hold; the actions are "
        + ", ".join(DELIVERED)
    )


def _relayed(text: str) -> str:
    """Raises ValueError for what is no action that may be relayed."""
    names = listed(text)
    if unknown := [name for name in names if name not in RELAYABLE]:
        raise ValueError(f"{unknown[0]} can't be relayed; {RELAYED_TAKES}")
    return ",".join(names)


def _extra(text: str) -> str:
    """Raises ValueError for what is no name of an action."""
    return ",".join(validate_extra_action(name) for name in listed(text))


def listed(text: str) -> list[str]:
    """Return the values of a list with commas between."""
    return [one.strip() for one in text.split(",") if one.strip()]


def _networks(text: str) -> str:
    """Raises ValueError for what is no network."""
    for one in text.split(","):
        if one.strip():
            ip_network(one.strip())
    return text


def _seed(text: SecretStr) -> SecretStr:
    try:
        size = len(base64.b64decode(text.get_secret_value(), validate=True))
    except binascii.Error:
        size = 0
    if size != SEED_BYTES:
        raise ValueError(
            f"takes {SEED_BYTES} random bytes in base64, as `openssl rand -base64 {SEED_BYTES}` prints them"
        )
    return text


def _valkey(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    scheme, host, _, path = urls.split(text)
    if (
        scheme in SHARED
        and host
        and re.fullmatch(r"(/\d*)?", path)
        and not re.search(r"[?#]", text)
    ):
        return url
    raise ValueError(
        "takes valkey:// or redis:// (valkeys:// or rediss:// for TLS), then [USER:PASSWORD@]HOST:PORT[/DB]"
    )


def _proxy(url: SecretStr) -> SecretStr:
    if not is_proxy(url.get_secret_value()):
        raise ValueError(TAKES)
    return url


def _data_keys(text: SecretStr) -> SecretStr:
    told = text.get_secret_value().split(",")
    found = [DATA_KEY.fullmatch(one) for one in (told[1:] if told[0] == IN_CLEAR else told)]
    ids = {one["id"] for one in found if one is not None}
    if not found or len(ids) < len(found) or IN_CLEAR in ids:
        raise ValueError(
            "takes ID:KEY, or several with commas between, each with an id of its own; KEY is 32 random bytes in "
            f"base64, as `openssl rand -base64 32` prints them; {IN_CLEAR} as the first only opens"
        )
    return text


def _limits(text: str) -> str:
    """Raises ValueError."""
    pairs = [one.partition("=") for one in text.split(",") if one]
    if all(
        name in TAXONOMY and value.isdecimal() and 0 < int(value) < 10**6
        for name, _, value in pairs
    ):
        return text
    raise ValueError(
        "takes how many names of a kind, as in events=500,params=200; kinds are "
        + ", ".join(TAXONOMY)
    )


Positive = Annotated[int, Field(gt=0)]
Duration = BeforeValidator(units.seconds)
Seconds = Annotated[float, Field(gt=0, le=10 * 366 * 86_400, allow_inf_nan=False), Duration]
Bytes = Annotated[int, Field(gt=0), BeforeValidator(units.size)]


class Settings(BaseSettings):
    """Every setting, by its variable's name in lower case. Immutable; secrets are masked wherever
    it is shown.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    leanplum_app_id: str | None = Field(None, description="the app's id", min_length=1)
    leanplum_production_key: SecretStr | None = Field(
        None, description="the production client key", min_length=1
    )
    leanplum_development_key: SecretStr | None = Field(
        None, description="the development client key", min_length=1
    )
    leanplum_data_export_key: SecretStr | None = Field(
        None, description="the data export client key", min_length=1
    )
    leanplum_content_read_only_key: SecretStr | None = Field(
        None, description="the content read-only client key", min_length=1
    )
    leanplum_api_url: Annotated[str, AfterValidator(upstream)] = Field(
        "https://api.leanplum.com/api",
        description="where Leanplum is: https, or http on a loopback address",
    )
    gateway_database_url: Annotated[str, AfterValidator(_database)] = Field(
        "sqlite:///data/gateway.db", description="the database", repr=False
    )
    gateway_commit_seconds: Seconds = Field(
        10,
        description="how long a commit is waited for; then 503, which says whether it may have been taken",
    )
    gateway_apps_file: Path | None = Field(
        None,
        description="a TOML file with several apps, as [apps.NAME] tables; read again when it changes",
    )
    gateway_enrichment_file: Path | None = Field(
        None,
        description="a TOML file that says how items are enriched, and which values must go; read again likewise",
    )
    gateway_maxmind_file: Path | None = Field(
        None,
        description="a MaxMind database (GeoLite2 City or alike) of where addresses are; read again likewise",
    )
    gateway_trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        "",
        description="networks of proxies whose X-Forwarded-For or Forwarded names the client, and whose "
        "X-Forwarded-Prefix the path prefix: 10.0.0.0/8,fd00::/8",
    )
    gateway_root_path: Annotated[str, AfterValidator(urls.path_prefix)] = Field(
        "", description="the path under which a proxy offers the gateway, as in /leanplum"
    )
    gateway_detect: Literal["resolve", "forward"] = Field(
        "resolve",
        description="what becomes of SDKs' (detect): resolve fills in the end user's place and language, or leaves the "
        "field out; forward sends the end user's address and language to Leanplum where an SDK waits for the answer",
    )
    gateway_shared_limits_url: Annotated[SecretStr, AfterValidator(_valkey)] | None = Field(
        None,
        description="a Valkey or Redis in which replicas share the limits; without it each keeps its own",
    )
    gateway_shared_limits_timeout_seconds: Seconds = Field(
        0.05,
        description="how long a call waits for the shared limits before each replica keeps a share by itself",
    )
    gateway_bootstrap_key: SecretStr | None = Field(
        None,
        description="a caller key with every scope, made at the first start when no key exists yet",
    )
    gateway_host: str = Field("127.0.0.1", description="the address to listen on")
    gateway_port: int = Field(
        8000, ge=0, le=65535, description="the port to listen on; 0 takes a free one"
    )
    gateway_sandbox_port: int = Field(
        8001,
        ge=0,
        le=65535,
        description="the simulator's port under serve --sandbox; 0 takes a free one",
    )
    gateway_log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least level logged"
    )
    gateway_log_format: Literal["json", "console", "auto"] = Field(
        "auto", description="json or console; auto is console on a terminal, else json"
    )
    gateway_max_batch_items: Positive = Field(1_000, description="items in one batch")
    gateway_max_body_bytes: Bytes = Field(
        5 * 1024 * 1024, description="bytes of one body, after decompression"
    )
    gateway_dedup_seconds: Seconds = Field(
        86_400, description="how long an item's id is remembered"
    )
    gateway_rate_per_second: Positive = Field(
        1_000, description="items a second for each caller key"
    )
    gateway_rate_burst: Positive = Field(5_000, description="items at once for each caller key")
    gateway_failed_auth_per_minute: Positive = Field(
        50, description="failed authentications a minute for each address"
    )
    gateway_max_connections: Positive = Field(
        5_000, description="connections of callers at once, idle ones too"
    )
    gateway_max_held_bytes: Bytes = Field(
        256 * 1024 * 1024,
        description="bytes of large bodies being read at once, of all callers together",
    )
    gateway_head_seconds: Seconds = Field(
        10, description="how long the head of a request may take to come"
    )
    gateway_slow_seconds: Seconds = Field(
        30,
        description="how long a body, or the reading of an answer, may take beyond its size at the least rate",
    )
    gateway_least_bytes_per_second: Bytes = Field(
        10_000, description="the least rate at which a body must come, and an answer be read"
    )
    gateway_max_queued_items: Positive = Field(10_000_000, description="items that may wait")
    gateway_upstream_concurrency: Positive = Field(
        16, description="calls to Leanplum in flight at once"
    )
    gateway_upstream_timeout_seconds: Seconds = Field(
        30, description="how long one call to Leanplum may take"
    )
    gateway_upstream_max_response_bytes: Bytes = Field(
        MAX_RESPONSE_BYTES,
        description="bytes of one of Leanplum's answers, compressed or not; a larger one is not read",
    )
    gateway_upstream_max_download_bytes: Bytes = Field(
        MAX_DOWNLOAD_BYTES,
        description="bytes of one file that Leanplum sends, compressed or not; a larger one is cut off",
    )
    gateway_upstream_proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = Field(
        None, description="the proxy on the way to Leanplum; NO_PROXY does not apply to it"
    )
    gateway_upstream_ca_file: Path | None = Field(
        None,
        description="certificates (PEM) of authorities that are trusted beside the usual ones on the way to Leanplum",
    )
    gateway_upstream_trust_env: bool = Field(
        False,
        description="whether HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR count on the way to Leanplum",
    )
    gateway_relay_concurrency: Positive = Field(
        64, description="calls to Leanplum at once that callers wait for"
    )
    gateway_relay_timeout_seconds: Seconds = Field(
        7,
        description="how long a call to Leanplum may take that a caller waits for; SDKs give up after 10",
    )
    gateway_cache_seconds: Annotated[float, Duration] = Field(
        30,
        ge=0,
        le=86_400,
        description="how old an answer about messages, tests, variants or categories may be",
    )
    gateway_max_upload_bytes: Bytes = Field(
        50_000_000, description="bytes of one upload, all files together"
    )
    gateway_sdk_max_body_bytes: Bytes = Field(
        24 * 1024 * 1024,
        description="bytes of one SDK's call, which may have 10,000 entries as an encoded form",
    )
    gateway_sdk_relayed_actions: Annotated[str, AfterValidator(_relayed)] = Field(
        "",
        description="actions at /api that Leanplum is asked for while the caller waits, instead of being accepted for "
        "later, as in track,setUserAttributes",
    )
    gateway_sdk_extra_actions: Annotated[str, AfterValidator(_extra)] = Field(
        "",
        description="actions at /api that are passed on although the gateway does not know them, by their "
        "exact names with commas between",
    )
    gateway_unknown_policy: Annotated[str, AfterValidator(_unknown_policy)] = Field(
        "resend",
        description="whether what was sent, and whose answer was lost, is sent again: resend or hold",
    )
    gateway_dead_letter_seconds: Seconds = Field(
        30 * 86_400, description="how long a dead letter is kept"
    )
    gateway_audit_seconds: Seconds = Field(
        90 * 86_400, description="how long an audit record is kept"
    )
    gateway_audit_key: Annotated[SecretStr, AfterValidator(_seed)] | None = Field(
        None,
        description="what signs the audit and hashes users' ids; default: made once, kept in the database",
    )
    gateway_data_key: Annotated[SecretStr, AfterValidator(_data_keys)] | None = Field(
        None,
        description="what seals bodies on the disk, as ID:BASE64; the first seals, all open; default: in clear",
    )
    gateway_erased_seconds: Annotated[float, Duration] = Field(
        86_400,
        ge=0,
        le=366 * 86_400,
        description="how long items of a user are refused who was erased",
    )
    gateway_tracking_plan: Path | None = Field(
        None,
        description="a tracking plan: a YAML file, or a folder of them; read again when it changes",
    )
    gateway_taxonomy_policy: Literal["off", "warn", "enforce"] = Field(
        "warn",
        description="what becomes of names beyond those that Leanplum keeps: off, warn or enforce",
    )
    gateway_taxonomy_limits: Annotated[str, AfterValidator(_limits)] = Field(
        ",".join(f"{kind}={limit}" for kind, limit in TAXONOMY.items()),
        description="how many names of each kind Leanplum keeps of an app",
    )
    gateway_taxonomy_warn_percent: float = Field(
        90, ge=0, le=100, description="the share of a limit from which on new names are warned of"
    )
    gateway_retry_window: Seconds = Field(
        86_400, description="seconds after which an undelivered item is given up"
    )
    gateway_drain_seconds: Annotated[float, Duration] = Field(
        5, ge=0, le=86_400, description="seconds between SIGTERM and refusing new work"
    )
    gateway_shutdown_seconds: Annotated[Positive, Duration] = Field(
        20,
        description="seconds within which what is in flight ends, and the process, once new work is refused",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is given, and nothing else: `load` reads the sources."""
        return (init_settings,)

    @property
    def not_twice(self) -> frozenset[str]:
        """The actions that are not sent again where an answer was lost."""
        default, _, exceptions = self.gateway_unknown_policy.partition(",")
        told = dict.fromkeys(DELIVERED, default) | dict(
            one.split("=") for one in exceptions.split(",") if one
        )
        return frozenset(action for action, policy in told.items() if policy == "hold")

    @property
    def route(self) -> Route:
        """How Leanplum is reached. Raises StartRefused where it can't be, whatever Leanplum
        does.
        """
        route = Route(
            self.gateway_upstream_proxy,
            self.gateway_upstream_ca_file,
            self.gateway_upstream_trust_env,
        )
        if faults := list(route.faults()):
            raise StartRefused(*faults)
        return route

    @property
    def sdk_relayed(self) -> frozenset[str]:
        """The actions at the SDK door that are relayed although they could be accepted for
        later.
        """
        return frozenset(listed(self.gateway_sdk_relayed_actions))

    @property
    def sdk_extra(self) -> frozenset[str]:
        """The actions at the SDK door that are passed on although they are not known."""
        return frozenset(listed(self.gateway_sdk_extra_actions))

    @property
    def taxonomy_limits(self) -> dict[str, int]:
        """How many names of each kind Leanplum keeps of an app."""
        told = [one.split("=") for one in self.gateway_taxonomy_limits.split(",") if one]
        return TAXONOMY | {kind: int(limit) for kind, limit in told}

    @property
    def trusted_proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks of the proxies that are believed."""
        return tuple(
            ip_network(one.strip())
            for one in self.gateway_trusted_proxies.split(",")
            if one.strip()
        )

    @property
    def audit_seed(self) -> bytes | None:
        """What the audit's keys are made of, where it is set."""
        key = self.gateway_audit_key
        return None if key is None else base64.b64decode(key.get_secret_value())

    @property
    def data_keys(self) -> dict[str, bytes]:
        """The keys that open what rests on the disk, by their ids."""
        text = self.gateway_data_key.get_secret_value() if self.gateway_data_key else ""
        return {one["id"]: base64.b64decode(one["key"]) for one in DATA_KEY.finditer(text)}

    @property
    def encryption_key_id(self) -> str | None:
        """The id of the one that seals; None where bodies lie in clear."""
        text = self.gateway_data_key.get_secret_value() if self.gateway_data_key else IN_CLEAR
        return None if text.partition(",")[0] == IN_CLEAR else text.partition(":")[0]

    @property
    def leanplum_keys(self) -> dict[KeyKind, SecretStr]:
        """The Leanplum keys that are set by variables."""
        named = {kind: getattr(self, kind.setting.lower()) for kind in KeyKind}
        return {kind: key for kind, key in named.items() if key is not None}


def read(environ: Mapping[str, str] = os.environ) -> sources.Read:
    """Read every source of settings. Raises StartRefused with a line for each that can't be
    read.
    """
    return sources.read(Settings.model_fields, _secret(), environ)


def load(environ: Mapping[str, str] = os.environ, **overrides: Any) -> Settings:
    """Read the settings; `overrides` (by field name) win. Raises StartRefused with a line for each
    bad one.
    """
    return made(read(environ), **overrides)


def made(found: sources.Read, **overrides: Any) -> Settings:
    """Make the settings of what was read; `overrides` win. Raises StartRefused with a line for each
    bad one.
    """
    values: dict[str, Any] = {name: one.value for name, one in found.given.items()}
    try:
        return Settings(**values | overrides)
    except ValidationError as error:
        raise StartRefused(*_lines(error)) from None


def _secret() -> set[str]:
    """The names of the settings that are secrets, or may have one in them."""
    return URLS | {
        name for name, one in Settings.model_fields.items() if "SecretStr" in str(one.annotation)
    }


def _lines(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_input=False, include_url=False):
        name = str(fault["loc"][0]) if fault["loc"] else ""
        field = Settings.model_fields.get(name)
        takes = f" ({field.description})" if field else ""
        yield f"{name.upper()}: {fault['msg'].removeprefix('Value error, ')}{takes}"


def table(settings: Settings, found: sources.Read) -> Iterator[dict[str, str]]:
    """Each setting's variable, its value (secrets masked), and where it came from."""
    for name in Settings.model_fields:
        value, given = getattr(settings, name), found.given.get(name)
        shown = "-" if value is None else _shown(name, value)
        source = sources.DEFAULT if given is None else given.source
        row = {"name": name.upper(), "value": shown, "source": source}
        yield row if given is None or given.path is None else row | {"path": str(given.path)}


def _shown(name: str, value: object) -> str:
    """A URL may have a password in it, which alone is masked; the secrets mask themselves."""
    if name in URLS:
        return urls.masked(value.get_secret_value() if isinstance(value, SecretStr) else str(value))
    return str(value)
