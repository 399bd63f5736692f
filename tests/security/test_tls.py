"""TLS to clients and to backends, with certificates of an authority made for the test."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import pytest
import trustme

from tests.security.test_rogue_backends import ANSWER, says
from tests.support.gateway import running_gateway
from tests.support.raw_http import talk
from tests.support.rogue import RogueBackend


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """PEM files: ca, cert and key of 127.0.0.1, cert and key of a client."""
    server, client = authority.issue_cert("127.0.0.1", "llm.internal"), authority.issue_cert("gateway@seawall")
    paths = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key", "client_cert", "client_key")}
    authority.cert_pem.write_to_path(paths["ca"])
    server.cert_chain_pems[0].write_to_path(paths["cert"])
    server.private_key_pem.write_to_path(paths["key"])
    client.cert_chain_pems[0].write_to_path(paths["client_cert"])
    client.private_key_pem.write_to_path(paths["client_key"])
    return paths


def backend_tls(files: dict[str, str], *, client_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files["cert"], files["key"])
    if client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files["ca"])
    return context


def settings(url: str, tls: str, server: str = "") -> str:
    return (
        f"server: {{listen: '127.0.0.1:0'{server}}}\nroutes: [{{model: tiny, backends: [b0], policy: p}}]\n"
        f"backends: {{b0: {{url: '{url}', kind: vllm, tls: {tls}}}}}\n"
        "policies: {p: {retry: {attempts: 1}, timeout: {connect: 2s, first_token: 5s}}}"
    )


async def test_a_backend_with_a_certificate_of_a_known_authority_is_asked_over_tls(files: dict[str, str]) -> None:
    async with RogueBackend(backend_tls(files)) as backend:
        backend.says = says()
        async with running_gateway(settings(backend.url, f"{{ca: '{files['ca']}'}}")) as gateway:
            answer = await gateway.chat()
            assert (answer.status, answer.body) == (200, ANSWER)


UNTRUSTED = {
    "an authority nobody knows": ("{verify: true}", "127.0.0.1"),
    "another name than the certificate's": ("{ca: 'CA', server_name: other.internal}", "127.0.0.1"),
    "a host that the certificate is not for": ("{ca: 'CA'}", "localhost"),
}


@pytest.mark.parametrize("case", UNTRUSTED)
async def test_a_backend_that_cannot_prove_its_name_is_sent_nothing(case: str, files: dict[str, str]) -> None:
    tls, host = UNTRUSTED[case]
    async with RogueBackend(backend_tls(files)) as backend:
        backend.says = says()
        url = backend.url.replace("127.0.0.1", host)
        async with running_gateway(settings(url, tls.replace("CA", files["ca"]))) as gateway:
            answer = await gateway.chat()
            assert answer.status in (502, 503)
            assert answer.error["error_type"] in ("backend_unreachable", "model_overloaded")
            assert backend.asked == 0


async def test_the_name_to_be_proven_can_be_configured(files: dict[str, str]) -> None:
    async with RogueBackend(backend_tls(files)) as backend:
        backend.says = says()
        tls = f"{{ca: '{files['ca']}', server_name: llm.internal}}"
        async with running_gateway(settings(backend.url, tls)) as gateway:
            assert (await gateway.chat()).status == 200


async def test_verification_can_be_switched_off_by_name_only(files: dict[str, str]) -> None:
    async with RogueBackend(backend_tls(files)) as backend:
        backend.says = says()
        async with running_gateway(settings(backend.url, "{verify: false}")) as gateway:
            assert (await gateway.chat()).status == 200


@pytest.mark.parametrize("presented", [True, False])
async def test_mutual_tls(files: dict[str, str], presented: bool) -> None:
    own = f", cert: '{files['client_cert']}', key: '{files['client_key']}'" if presented else ""
    async with RogueBackend(backend_tls(files, client_certificate=True)) as backend:
        backend.says = says()
        async with running_gateway(settings(backend.url, f"{{ca: '{files['ca']}'{own}}}")) as gateway:
            assert (await gateway.chat()).status == (200 if presented else 502)
            assert backend.asked == int(presented)


async def test_clients_are_served_over_tls_on_both_kinds_of_path(files: dict[str, str]) -> None:
    async with RogueBackend() as backend:
        backend.says = says()
        server = f", tls: {{cert: '{files['cert']}', key: '{files['key']}'}}"
        async with running_gateway(settings(backend.url, "{}", server)) as gateway:
            gateway.url = gateway.url.replace("http://", "https://")
            trusting = ssl.create_default_context(cafile=files["ca"])
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session:
                gateway.session, plain = session, gateway.session
                assert (await gateway.chat()).body == ANSWER
                assert (await gateway.get("/livez")).json == {"status": "ok"}
                assert (await gateway.get("/status")).status == 200
            with pytest.raises(aiohttp.ClientError):
                await plain.get(gateway.url.replace("https://", "http://") + "/livez")
            gateway.session = plain


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_of_tls_are_refused(files: dict[str, str], version: ssl.TLSVersion) -> None:
    async with RogueBackend() as backend:
        server = f", tls: {{cert: '{files['cert']}', key: '{files['key']}'}}"
        async with running_gateway(settings(backend.url, "{}", server)) as gateway:
            old = ssl.create_default_context(cafile=files["ca"])
            old.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.warns(DeprecationWarning, match="deprecated"):
                old.minimum_version = old.maximum_version = version
            with pytest.raises(aiohttp.ClientError):
                await gateway.session.get(gateway.url.replace("http://", "https://") + "/livez", ssl=old)


async def test_a_client_that_does_not_finish_its_handshake_is_closed(files: dict[str, str]) -> None:
    async with RogueBackend() as backend:
        server = f", tls: {{cert: '{files['cert']}', key: '{files['key']}'}}, timeouts: {{header: 200ms}}"
        async with running_gateway(settings(backend.url, "{}", server)) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            assert await talk(port, b"\x16\x03\x01", timeout=5) == []
