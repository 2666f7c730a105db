"""Delivery and relayed calls through proxies and past private authorities, and what is said of
failures.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.errors import StartRefused
from app.server.preparation import prepare
from app.settings import Settings
from tests.support.gateway import EVENT, Talk, running
from tests.support.simulator import KEYS, simulated
from tests.support.tls_simulator import Files, TunnelProxy, encrypted_simulator, make_files
from tests.support.wait import until

Start = Callable[..., Talk]
NAMES = (
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def simulator(files: Files) -> Iterator[str]:
    with encrypted_simulator(files) as url:
        yield url


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gateway(settings: Callable[..., Settings], path: Path) -> Iterator[Start]:
    """Starts a gateway that delivers to a URL."""
    with ExitStack() as stack:

        def start(url: str, **given: Any) -> Talk:
            told = {
                "leanplum_app_id": "app_sandbox",
                "leanplum_api_url": f"{url}/api",
                **KEYS,
                **given,
            }
            return stack.enter_context(running(settings(**told), path, delivery=True))

        yield start


def works(talk: Talk) -> None:
    """Both ways lead to Leanplum: delivery, and a call that is waited for."""
    assert talk.event(headers={"Prefer": "wait=10"}).json()["status"] == "delivered"
    assert talk.get("/v1/users/u1").status_code == 200


def said(talk: Talk) -> str:
    """What a receipt and a relayed call say, which is the same."""
    talk.event({**EVENT, "id": "e"})
    until(lambda: talk.get("/v1/receipts/e").json()["status"] == "retrying")
    receipt: str = talk.get("/v1/receipts/e").json()["leanplum"]["error"]
    answer = talk.get("/v1/users/u1")
    assert answer.status_code == 502 or answer.status_code == 503, answer.text
    reason = receipt.removeprefix("No answer from Leanplum: ")
    assert answer.json()["detail"] == f"Leanplum cannot be reached: {reason}."
    return reason


def test_a_private_authority_is_trusted_where_its_file_is_set(
    gateway: Start, simulator: str, files: Files
) -> None:
    works(gateway(simulator, gateway_upstream_ca_file=files.authority))


def test_delivery_and_relayed_calls_go_through_the_proxy_with_its_password(
    gateway: Start, simulator: str, files: Files
) -> None:
    with TunnelProxy("user:p@ss/word").running() as proxy:
        url = f"http://user:p%40ss%2Fword@127.0.0.1:{proxy.port}"
        works(
            gateway(simulator, gateway_upstream_proxy=url, gateway_upstream_ca_file=files.authority)
        )
        assert {head.split()[0] for head in proxy.heads} == {"CONNECT"}
        assert len(proxy.heads) == 2, "one connection of the delivery, and one for relayed calls"


def test_no_proxy_does_not_apply_to_the_setting(
    gateway: Start, simulator: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with TunnelProxy().running() as proxy:
        url, authority = f"http://127.0.0.1:{proxy.port}", files.authority
        given = {"gateway_upstream_proxy": url, "gateway_upstream_ca_file": authority}
        works(gateway(simulator, gateway_upstream_trust_env=True, **given))
        assert proxy.heads


@pytest.mark.parametrize("trusted", [True, False])
def test_the_standard_variables_count_where_the_setting_says_so(
    gateway: Start, simulator: str, files: Files, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    with TunnelProxy().running() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
        talk = gateway(simulator, gateway_upstream_trust_env=trusted)
        if trusted:
            works(talk)
        else:
            assert said(talk).startswith("certificate verify failed: ")
        assert bool(proxy.heads) is trusted


def test_an_unknown_authority_is_told_in_words(gateway: Start, simulator: str) -> None:
    assert (
        said(gateway(simulator))
        == "certificate verify failed: unable to get local issuer certificate"
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [({"self_signed": True}, "self-signed certificate"), ({"days": -1}, "certificate has expired")],
)
def test_a_bad_certificate_is_told_in_words(
    gateway: Start, tmp_path: Path, made: dict[str, Any], words: str
) -> None:
    files = make_files(tmp_path, **made)
    with encrypted_simulator(files) as url:
        talk = gateway(url, gateway_upstream_ca_file=files.authority)
        assert said(talk) == f"certificate verify failed: {words}"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://127.0.0.1:9", "connection refused"),
        ("https://leanplum.invalid", "name not resolved"),
    ],
)
def test_what_is_not_reached_is_told_in_words(gateway: Start, url: str, words: str) -> None:
    assert said(gateway(url)) == words


def test_a_proxy_that_refuses_is_told_without_its_words_or_the_password(
    gateway: Start, simulator: str, files: Files
) -> None:
    """Nothing went further than the proxy, so the item is tried again whatever the policy for lost
    answers.
    """
    with TunnelProxy("user:right").running() as proxy:
        url = f"http://user:wr0ng@127.0.0.1:{proxy.port}"
        given = {"gateway_upstream_ca_file": files.authority, "gateway_unknown_policy": "hold"}
        talk = gateway(simulator, gateway_upstream_proxy=url, **given)
        assert said(talk) == "proxy answered 407 Proxy Authentication Required"


def test_a_proxy_that_is_not_there_is_told_as_such(
    gateway: Start, simulator: str, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = gateway(simulator, gateway_upstream_proxy="http://user:s3cret@127.0.0.1:9")
    assert said(talk) == "proxy: connection refused"
    logged = capsys.readouterr().out
    for event in ("call.unanswered", "call.relayed"):
        assert any(
            event in line and "proxy: connection refused" in line for line in logged.splitlines()
        ), event
    assert "s3cret" not in logged


def test_a_proxy_may_speak_tls_itself(gateway: Start, simulator: str, files: Files) -> None:
    with TunnelProxy("u:p", certificate=files.server).running() as proxy:
        url = f"https://u:p@127.0.0.1:{proxy.port}"
        works(
            gateway(simulator, gateway_upstream_proxy=url, gateway_upstream_ca_file=files.authority)
        )


def test_plain_http_goes_through_no_proxy_that_is_elsewhere(
    start: Callable[..., Talk],
) -> None:
    """It would carry the keys in clear."""
    with simulated() as leanplum:
        given = {
            "leanplum_app_id": "app_sandbox",
            "leanplum_api_url": f"{leanplum.url}/api",
            **KEYS,
        }
        works(start(delivery=True, gateway_upstream_proxy="http://proxy.invalid:3128", **given))


def test_a_bad_certificate_behind_a_proxy_has_sent_nothing(gateway: Start, simulator: str) -> None:
    with TunnelProxy().running() as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        talk = gateway(simulator, gateway_upstream_proxy=url, gateway_unknown_policy="hold")
        assert said(talk) == "certificate verify failed: unable to get local issuer certificate"


BAD = {
    "no file": lambda folder: folder / "missing.pem",
    "a folder": lambda folder: folder,
    "no certificates": lambda folder: folder / "empty.pem",
    "a broken one": lambda folder: folder / "broken.pem",
}


@pytest.mark.parametrize("which", BAD)
def test_a_file_without_certificates_is_told_at_the_start_in_one_line(
    settings: Callable[..., Settings], tmp_path: Path, which: str
) -> None:
    (tmp_path / "empty.pem").write_text("# none yet\n")
    (tmp_path / "broken.pem").write_text(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    with pytest.raises(StartRefused) as refused:
        prepare(settings(gateway_upstream_ca_file=BAD[which](tmp_path)))
    (line,) = str(refused.value).splitlines()
    assert line.startswith("GATEWAY_UPSTREAM_CA_FILE: ")


@pytest.mark.parametrize(
    "url",
    [
        "proxy:3128",
        "socks5://u:s3cret@proxy",
        "http://u:s3cret@",
        "http://u:s3cret@proxy:x",
        "http://u:s3cret@p/x",
    ],
)
def test_a_bad_proxy_is_refused_without_its_password(
    settings: Callable[..., Settings], url: str
) -> None:
    with pytest.raises(ValueError, match="takes http:// or https://") as refused:
        settings(gateway_upstream_proxy=url)
    assert "s3cret" not in str(refused.value.errors(include_input=False))  # type: ignore[attr-defined]


def test_a_proxy_of_the_environment_that_cannot_be_used_is_told_at_the_start(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://u:s3cret@proxy:1080")
    with pytest.raises(StartRefused, match="HTTPS_PROXY: takes http") as refused:
        prepare(settings(gateway_upstream_trust_env=True))
    assert "s3cret" not in str(refused.value)
