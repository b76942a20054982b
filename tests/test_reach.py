"""One knock at the front door: what it finds, and what it says when there is nothing to find."""

import socket
import time

import pytest
from doors import authority, door

from sites import reach


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """(ca.crt, server.pem) of the consortium."""
    return authority(tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize("apart", [0, 600, -600, 90])
def test_the_offset_of_the_clocks_is_found_within_what_it_says_it_may_be_wrong(keys, apart):
    """The door's clock is set apart from ours; the answer's date has whole seconds."""
    ca, server = keys
    with door(server, lambda: time.time() - apart, b"hello", 404) as address:
        found = reach.knock(address, ca)
    assert (found.status, found.body) == (404, b"hello")
    assert abs(found.offset_s - apart) <= found.unsure_s < 5


def test_our_own_clock_is_a_parameter(keys):
    """A clock that stands at 1000 is ten seconds behind a door that says 1010."""
    ca, server = keys
    with door(server, lambda: 1010) as address:
        found = reach.knock(address, ca, now=lambda: 1000.0)
    assert abs(found.offset_s + 10) <= found.unsure_s < 5


def test_a_door_of_another_authority_is_not_trusted(keys, tmp_path):
    """The certificate may be the network's own proxy's: the sentence says so, the remedy too."""
    ca, _ = keys
    _, other = authority(tmp_path, "proxy")
    with (
        door(other, time.time) as address,
        pytest.raises(reach.Unreachable, match="certificate that the consortium's authority did not make") as told,
    ):
        reach.knock(address, ca)
    assert "a proxy opens TLS" in told.value.remedy


def free_port():
    """A port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_closed_port_is_a_matter_of_the_firewall(keys):
    """The remedy names host, port and direction."""
    port = free_port()
    with pytest.raises(reach.Unreachable, match=f"127.0.0.1:{port} could not be reached") as told:
        reach.knock(f"127.0.0.1:{port}", keys[0])
    assert f"127.0.0.1, port {port} (outbound only)" in told.value.remedy


def test_a_server_that_accepts_and_says_nothing_is_not_waited_for_for_ever(keys):
    """A firewall that drops: the sentence has the seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(reach.Unreachable, match=r"did not answer within 0\.2 s"):
            reach.knock(address, keys[0], timeout_s=0.2)


def test_a_port_that_speaks_no_tls_is_the_wrong_port(keys):
    """Something else answers there."""
    import threading

    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer():
            there, _ = plain.accept()
            with there:
                there.recv(4096)
                there.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(reach.Unreachable, match="does not speak TLS"):
            reach.knock(f"127.0.0.1:{plain.getsockname()[1]}", keys[0])
        thread.join()


def test_a_name_that_nobody_knows_is_a_matter_of_dns(keys):
    """`.invalid` exists nowhere, by its standard."""
    with pytest.raises(reach.Unreachable) as told:
        reach.knock("door.invalid:8443", keys[0])
    assert "DNS" in told.value.remedy


def test_the_proxy_of_the_environment_is_used_as_the_node_uses_it(keys, monkeypatch):
    """With a proxy that is not there, a door that is there is not reached, and the remedy names the variables."""
    ca, server = keys
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with door(server, time.time) as address:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
        with pytest.raises(reach.Unreachable) as told:
            reach.knock(address, ca)
        assert "HTTPS_PROXY" in told.value.remedy
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert reach.knock(address, ca).status == 200
