"""TLS to clients and to backends, with certificates of an authority made for the test."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import aiohttp
import pytest
import trustme

from gateway.config.upstreams import BackendTls
from gateway.tls import TlsFiles, backend_files
from tests.security.test_rogue_backends import ANSWER, says
from tests.support.gateway import running_gateway
from tests.support.raw_http import talk
from tests.support.rogue import RogueBackend
from tests.support.waiting import eventually


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


def write_pair(authority: trustme.CA, files: dict[str, str], cert: str, key: str, *names: str) -> bytes:
    """Renews a certificate and its key in their files; the certificate in DER."""
    renewed = authority.issue_cert(*names)
    renewed.private_key_pem.write_to_path(files[key])
    renewed.cert_chain_pems[0].write_to_path(files[cert])
    return ssl.PEM_cert_to_DER_cert(renewed.cert_chain_pems[0].bytes().decode())


def presented(url: str, files: dict[str, str]) -> bytes:
    """The certificate that a listener shows to a new client, in DER."""
    context = ssl.create_default_context(cafile=files["ca"])
    host, port = url.removeprefix("http://").split(":")
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname=host) as sock,
    ):
        found = sock.getpeercert(binary_form=True)
    assert found is not None
    return found


async def test_a_renewed_certificate_is_shown_without_a_restart_and_no_connection_is_lost(
    authority: trustme.CA, files: dict[str, str]
) -> None:
    async with RogueBackend() as backend:
        backend.says = says()
        server = f", tls: {{cert: '{files['cert']}', key: '{files['key']}'}}"
        async with running_gateway(settings(backend.url, "{}", server)) as gateway:
            old = await asyncio.to_thread(presented, gateway.url, files)
            plain_url, gateway.url = gateway.url, gateway.url.replace("http://", "https://")
            connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=files["ca"]), limit=1)
            plain = gateway.session
            async with aiohttp.ClientSession(connector=connector) as gateway.session:
                assert (await gateway.get("/livez")).status == 200
                before = [*gateway.gateway.server._connections]
                await asyncio.to_thread(Path(files["key"]).write_text, "half a renewal")
                files_of = gateway.gateway._tls
                assert files_of is not None
                await eventually(lambda: files_of._seen == files_of._stamps())
                assert await asyncio.to_thread(presented, plain_url, files) == old
                new = write_pair(authority, files, "cert", "key", "127.0.0.1")
                seen = [old]

                async def shown() -> None:
                    while seen[-1] == old:
                        seen.append(await asyncio.to_thread(presented, plain_url, files))

                await asyncio.wait_for(shown(), 10)
                assert seen[-1] == new
                assert (await gateway.chat()).body == ANSWER
                assert [one for one in before if one.disconnected] == []
            gateway.session = plain


async def test_a_renewed_client_certificate_and_authority_are_used_without_a_restart(
    authority: trustme.CA, files: dict[str, str]
) -> None:
    """The backend is of another authority than the files hold at first, and trusts only that other one's clients."""
    other = trustme.CA()
    there = {**files, "ca": files["ca"] + ".other", "cert": files["cert"] + ".other", "key": files["key"] + ".other"}
    other.cert_pem.write_to_path(there["ca"])
    write_pair(other, there, "cert", "key", "127.0.0.1")
    async with RogueBackend(backend_tls(there, client_certificate=True)) as backend:
        backend.says = says()
        tls = f"{{ca: '{files['ca']}', cert: '{files['client_cert']}', key: '{files['client_key']}'}}"
        async with running_gateway(settings(backend.url, tls)) as gateway:
            assert (await gateway.chat()).status in (502, 503)
            assert backend.asked == 0
            write_pair(other, files, "client_cert", "client_key", "gateway@seawall")
            other.cert_pem.write_to_path(files["ca"])

            async def answered() -> None:
                while (await gateway.chat()).status != 200:
                    pass

            await asyncio.wait_for(answered(), 15)


PAST, SOON, FUTURE = (datetime(year, 1, 1, tzinfo=UTC) for year in (2020, 2021, 2127))
#: What the backend presents (its names, from when and until when, whether signed by itself), and what operators read.
AMISS: dict[str, tuple[str, datetime, datetime, bool, str]] = {
    "expired": ("127.0.0.1", PAST, SOON, False, "certificate has expired"),
    "of the future": ("127.0.0.1", FUTURE, FUTURE + timedelta(1), False, "certificate is not yet valid"),
    "for another host": ("other.internal", PAST, FUTURE, False, "IP address mismatch, certificate is not valid"),
    "self-signed": ("127.0.0.1", PAST, FUTURE, True, "self-signed certificate"),
}


@pytest.mark.parametrize("case", AMISS)
async def test_operators_are_told_what_is_wrong_with_a_backends_certificate_and_clients_are_not(
    authority: trustme.CA, files: dict[str, str], case: str
) -> None:
    name, begins, ends, alone, told = AMISS[case]
    signer = trustme.CA() if alone else authority
    shown = signer if alone else authority.issue_cert(name, not_before=begins, not_after=ends)
    (signer.cert_pem if isinstance(shown, trustme.CA) else shown.cert_chain_pems[0]).write_to_path(files["cert"])
    shown.private_key_pem.write_to_path(files["key"])
    async with RogueBackend(backend_tls(files)) as backend:
        backend.says = says()
        async with running_gateway(settings(backend.url, f"{{ca: '{files['ca']}'}}")) as gateway:
            answer = await gateway.chat()
            assert answer.status in (502, 503)
            assert backend.asked == 0
            assert "certificate" not in answer.body.decode()
            endpoint = gateway.gateway.runtime.endpoints["b0"]
            await eventually(lambda: endpoint.message)
            for path in ("/status", "/health"):
                assert f"its certificate is refused: {told}" in (await gateway.get(path)).body.decode()
            assert "127.0.0.1" not in endpoint.message


async def test_a_backend_that_does_not_finish_its_handshake_is_given_up_in_time(files: dict[str, str]) -> None:
    async with RogueBackend() as backend:  # it speaks no TLS, and waits for a request that never comes
        url = backend.url.replace("http://", "https://")
        text = settings(url, f"{{ca: '{files['ca']}'}}").replace("connect: 2s", "connect: 200ms")
        async with running_gateway(text) as gateway:
            started = monotonic()
            assert (await gateway.chat()).status in (502, 503)
            assert monotonic() - started < 4


def test_endpoints_with_the_same_settings_share_one_context(files: dict[str, str]) -> None:
    tls = BackendTls(ca=files["ca"])
    first = backend_files(tls)
    assert backend_files(BackendTls(ca=files["ca"])) is first
    assert backend_files(BackendTls(ca=files["ca"], verify=False)) is not first


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("ca", "no PEM", "no certificate or crl found"), ("cert", "no PEM", "PEM"), ("ca", None, "No such file")],
)
def test_an_error_about_a_file_names_it(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    given: dict[str, str | None] = {"ca": None, "cert": None, "key": None, name: str(path)}
    with pytest.raises(OSError, match=said) as raised:
        TlsFiles(ssl.Purpose.SERVER_AUTH, **given)
    assert raised.value.filename == str(path)
