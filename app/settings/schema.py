"""The class of the settings, with one field for each variable."""

import base64
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.errors import StartRefused
from app.leanplum.actions import DELIVERABLE_ACTIONS
from app.leanplum.connections import Route
from app.leanplum.http_response import MAX_DOWNLOAD_BYTES, MAX_RESPONSE_BYTES
from app.model import KeyKind
from app.settings.validators import (
    DATA_KEY,
    TAXONOMY,
    UNENCRYPTED,
    Bytes,
    DatabaseUrl,
    DataKeys,
    Duration,
    ExtraActions,
    Networks,
    PathPrefix,
    Positive,
    ProxyUrl,
    RelayedActions,
    Seconds,
    Seed,
    SharedLimitsUrl,
    TaxonomyLimits,
    UnknownPolicy,
    UpstreamUrl,
    split_list,
    split_pairs,
)


class Settings(BaseSettings):
    """All settings, named like their variables in lower case.

    Immutable; secrets are masked wherever the settings are shown.
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
    leanplum_api_url: UpstreamUrl = Field(
        "https://api.leanplum.com/api",
        description="the URL of Leanplum's API: https, or http on a loopback address",
    )
    gateway_database_url: DatabaseUrl = Field(
        "sqlite:///data/gateway.db", description="the URL of the database", repr=False
    )
    gateway_commit_seconds: Seconds = Field(
        10,
        description="longest wait for a commit; then 503, which says whether the item may have "
        "been accepted",
    )
    gateway_apps_file: Path | None = Field(
        None,
        description="a TOML file with several apps, as [apps.NAME] tables; reloaded when it "
        "changes",
    )
    gateway_enrichment_file: Path | None = Field(
        None,
        description="a TOML file with the rules for enrichment and privacy; reloaded when it "
        "changes",
    )
    gateway_maxmind_file: Path | None = Field(
        None,
        description="a MaxMind database (such as GeoLite2 City) that locates addresses; reloaded "
        "when it changes",
    )
    gateway_trusted_proxies: Networks = Field(
        "",
        description="networks of trusted proxies, such as 10.0.0.0/8,fd00::/8: their "
        "X-Forwarded-For or "
        "Forwarded names the client, and their X-Forwarded-Prefix the path prefix",
    )
    gateway_root_path: PathPrefix = Field(
        "", description="the path prefix under which a proxy exposes the gateway, such as /leanplum"
    )
    gateway_detect: Literal["resolve", "forward"] = Field(
        "resolve",
        description="how the value (detect) of SDKs is handled: resolve fills in the end user's "
        "place and "
        "language, or leaves the field out; forward sends the end user's address and language to "
        "Leanplum if the SDK waits for the response",
    )
    gateway_shared_limits_url: SharedLimitsUrl | None = Field(
        None,
        description="the Valkey or Redis server through which replicas share rate limits; "
        "default: each has its own",
    )
    gateway_shared_limits_timeout_seconds: Seconds = Field(
        0.05,
        description="longest wait for the shared limits; then each replica enforces a share of "
        "them",
    )
    gateway_bootstrap_key: SecretStr | None = Field(
        None,
        description="a caller key with every scope, created at the first start if no key exists "
        "yet",
    )
    gateway_host: str = Field("127.0.0.1", description="the address to listen on")
    gateway_port: int = Field(
        8000, ge=0, le=65535, description="the port to listen on; 0 takes a free one"
    )
    gateway_workers: Positive = Field(
        1,
        description="accepting processes; with 2 or more, delivery and sealing run in a process "
        "of their own",
    )
    gateway_sandbox_port: int = Field(
        8001,
        ge=0,
        le=65535,
        description="the simulator's port under serve --sandbox; 0 takes a free one",
    )
    gateway_log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the lowest level that is logged"
    )
    gateway_log_format: Literal["json", "console", "auto"] = Field(
        "auto", description="json or console; auto is console on a terminal, otherwise json"
    )
    gateway_access_log: Literal["on", "off", "slow"] = Field(
        "on",
        description="which requests are logged: on is all, slow is those that fail or take a "
        "second or longer, off is none",
    )
    gateway_audit_checkpoint_seconds: Seconds = Field(
        60, description="shortest time between two checkpoints of the audit log that are logged"
    )
    gateway_max_batch_items: Positive = Field(1_000, description="most items in one batch")
    gateway_max_body_bytes: Bytes = Field(
        5 * 1024 * 1024, description="largest body, in bytes after decompression"
    )
    gateway_dedup_seconds: Seconds = Field(
        86_400, description="how long the id of an item is remembered to detect duplicates"
    )
    gateway_rate_per_second: Positive = Field(
        1_000, description="rate limit of each caller key, in items per second"
    )
    gateway_rate_burst: Positive = Field(
        5_000, description="burst limit of each caller key, in items"
    )
    gateway_failed_auth_per_minute: Positive = Field(
        50, description="failed authentications per minute allowed for each address"
    )
    gateway_max_connections: Positive = Field(
        5_000, description="most connections of callers at once, including idle ones"
    )
    gateway_max_held_bytes: Bytes = Field(
        256 * 1024 * 1024,
        description="most bytes of large bodies that are being read at once, for all callers "
        "together",
    )
    gateway_head_seconds: Seconds = Field(
        10, description="longest time to receive the head of a request"
    )
    gateway_slow_seconds: Seconds = Field(
        30,
        description="longest time to receive a body or send a response, in addition to its size "
        "at the lowest rate",
    )
    gateway_least_bytes_per_second: Bytes = Field(
        10_000, description="lowest rate at which a body must arrive, and a response be read"
    )
    gateway_max_queued_items: Positive = Field(
        10_000_000, description="most items that may wait in the queue"
    )
    gateway_upstream_concurrency: Positive = Field(
        16, description="most calls to Leanplum in flight at once, for deliveries"
    )
    gateway_upstream_timeout_seconds: Seconds = Field(
        30, description="longest duration of one call to Leanplum"
    )
    gateway_upstream_max_response_bytes: Bytes = Field(
        MAX_RESPONSE_BYTES,
        description="largest response of Leanplum, in bytes, compressed or not; a larger one is "
        "not read",
    )
    gateway_upstream_max_download_bytes: Bytes = Field(
        MAX_DOWNLOAD_BYTES,
        description="largest file from Leanplum, in bytes, compressed or not; a larger one is "
        "truncated",
    )
    gateway_upstream_proxy: ProxyUrl | None = Field(
        None, description="the HTTP proxy for calls to Leanplum; NO_PROXY does not apply to it"
    )
    gateway_upstream_ca_file: Path | None = Field(
        None,
        description="additional certificate authorities (PEM) to trust for calls to Leanplum",
    )
    gateway_upstream_trust_env: bool = Field(
        False,
        description="whether calls to Leanplum use HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and "
        "SSL_CERT_DIR",
    )
    gateway_relay_concurrency: Positive = Field(
        64,
        description="most calls to Leanplum in flight at once, for callers who wait for the "
        "response",
    )
    gateway_relay_timeout_seconds: Seconds = Field(
        7,
        description="longest duration of a call to Leanplum that a caller waits for; SDKs give up "
        "after 10 seconds",
    )
    gateway_cache_seconds: Annotated[float, Duration] = Field(
        30,
        ge=0,
        le=86_400,
        description="how long responses about messages, A/B tests, variants and categories are "
        "cached",
    )
    gateway_max_upload_bytes: Bytes = Field(
        50_000_000, description="largest upload, in bytes, all files together"
    )
    gateway_sdk_max_body_bytes: Bytes = Field(
        24 * 1024 * 1024,
        description="largest call of an SDK, in bytes; it may have 10,000 entries as an encoded "
        "form",
    )
    gateway_sdk_relayed_actions: RelayedActions = Field(
        "",
        description="actions that /api relays while the caller waits instead of accepting them "
        "for later, "
        "such as track,setUserAttributes",
    )
    gateway_sdk_extra_actions: ExtraActions = Field(
        "",
        description="actions that /api relays although the gateway does not know them, by their "
        "exact "
        "names, separated by commas",
    )
    gateway_unknown_policy: UnknownPolicy = Field(
        "resend",
        description="what happens to an item that was sent but whose response was lost: resend or "
        "hold",
    )
    gateway_dead_letter_seconds: Seconds = Field(
        30 * 86_400, description="how long a dead letter is kept"
    )
    gateway_audit_seconds: Seconds = Field(
        90 * 86_400, description="how long an audit record is kept"
    )
    gateway_audit_key: Seed | None = Field(
        None,
        description="the key that signs the audit log and hashes user ids; default: created once "
        "and kept in the database",
    )
    gateway_data_key: DataKeys | None = Field(
        None,
        description="keys that encrypt stored bodies, as ID:BASE64; the first encrypts, all "
        "decrypt; default: unencrypted",
    )
    gateway_erased_seconds: Annotated[float, Duration] = Field(
        86_400,
        ge=0,
        le=366 * 86_400,
        description="how long items of an erased user are refused",
    )
    gateway_console_idle_seconds: Annotated[float, Duration] = Field(
        3_600,
        gt=0,
        le=30 * 86_400,
        description="how long a session of the console lasts without a page being opened",
    )
    gateway_console_session_seconds: Annotated[float, Duration] = Field(
        43_200,
        gt=0,
        le=30 * 86_400,
        description="how long a session of the console lasts at most",
    )
    gateway_tracking_plan: Path | None = Field(
        None,
        description="a tracking plan: a YAML file, or a folder of them; reloaded when it changes",
    )
    gateway_taxonomy_policy: Literal["off", "warn", "enforce"] = Field(
        "warn",
        description="what happens to names beyond those that Leanplum keeps: off, warn or enforce",
    )
    gateway_taxonomy_limits: TaxonomyLimits = Field(
        ",".join(f"{kind}={limit}" for kind, limit in TAXONOMY.items()),
        description="the number of names of each kind that Leanplum keeps for an app",
    )
    gateway_taxonomy_warn_percent: float = Field(
        90,
        ge=0,
        le=100,
        description="the share of a limit, in percent, from which new names cause a warning",
    )
    gateway_retry_window: Seconds = Field(
        86_400, description="age at which an undelivered item expires"
    )
    gateway_retry_max_seconds: Seconds = Field(
        900,
        description="longest pause between two attempts to deliver an item, and between probes "
        "while Leanplum is down or refuses the app",
    )
    gateway_drain_seconds: Annotated[float, Duration] = Field(
        5, ge=0, le=86_400, description="time between SIGTERM and refusing new work"
    )
    gateway_shutdown_seconds: Annotated[Positive, Duration] = Field(
        20,
        description="time for work in flight and the process to end, once new work is refused",
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
        """Use the constructor's arguments only: `load` reads the other sources."""
        return (init_settings,)

    @property
    def not_twice(self) -> frozenset[str]:
        """The actions that are not sent again after Leanplum's response was lost."""
        default, _, exceptions = self.gateway_unknown_policy.partition(",")
        policies = dict.fromkeys(DELIVERABLE_ACTIONS, default) | dict(split_pairs(exceptions))
        return frozenset(action for action, policy in policies.items() if policy == "hold")

    @property
    def route(self) -> Route:
        """The way to Leanplum. Raises StartRefused if its proxy or CA file cannot be used."""
        route = Route(
            self.gateway_upstream_proxy,
            self.gateway_upstream_ca_file,
            self.gateway_upstream_trust_env,
        )
        faults = list(route.faults())
        if faults:
            raise StartRefused(*faults)
        return route

    @property
    def sdk_relayed(self) -> frozenset[str]:
        """The actions that the SDK endpoint relays although it could accept them for later."""
        return frozenset(split_list(self.gateway_sdk_relayed_actions))

    @property
    def sdk_extra(self) -> frozenset[str]:
        """The actions that the SDK endpoint relays although the gateway does not know them."""
        return frozenset(split_list(self.gateway_sdk_extra_actions))

    @property
    def taxonomy_limits(self) -> dict[str, int]:
        """The number of names of each kind that Leanplum keeps for an app."""
        limits = split_pairs(self.gateway_taxonomy_limits)
        return TAXONOMY | {kind: int(limit) for kind, limit in limits}

    @property
    def trusted_proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks of trusted proxies."""
        return tuple(ip_network(network) for network in split_list(self.gateway_trusted_proxies))

    @property
    def audit_root_key(self) -> bytes | None:
        """The seed of the audit log's keys, if it is set."""
        key = self.gateway_audit_key
        return None if key is None else base64.b64decode(key.get_secret_value())

    @property
    def data_keys(self) -> dict[str, bytes]:
        """The keys that decrypt stored bodies, by id."""
        return {
            match["id"]: base64.b64decode(match["key"])
            for match in DATA_KEY.finditer(self._data_key_text)
        }

    @property
    def encryption_key_id(self) -> str | None:
        """The id of the key that encrypts new bodies; None if they are stored unencrypted."""
        first = self._data_key_text.partition(",")[0]
        return None if first == UNENCRYPTED else first.partition(":")[0]

    @property
    def _data_key_text(self) -> str:
        return self.gateway_data_key.get_secret_value() if self.gateway_data_key else UNENCRYPTED

    @property
    def leanplum_keys(self) -> dict[KeyKind, SecretStr]:
        """The keys of Leanplum that are set by variables."""
        keys = {kind: getattr(self, kind.setting.lower()) for kind in KeyKind}
        return {kind: key for kind, key in keys.items() if key is not None}
