"""The authority is good for its own hosts, and each certificate for one purpose."""

import ipaddress
import ssl

import doors
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import DNSName, NameConstraints

from fedmerge.errors import Refused
from fedmerge.trust import certificates, keys

NOW = 1_800_000_000.0
HOSTS = ("fed.example.org", "10.1.2.3")


@pytest.fixture(scope="module")
def consortium():
    """Key and certificate of an authority."""
    return certificates.new_authority("tumours", HOSTS, NOW)


def test_the_authority_is_constrained_to_its_hosts_and_loopback(consortium):
    """Critically, so that whoever does not understand it does not trust it; it certifies no other authority."""
    _, ca = consortium
    found = ca.extensions.get_extension_for_class(NameConstraints)
    permitted = found.value.permitted_subtrees
    assert found.critical
    assert {n.value for n in permitted if isinstance(n, DNSName)} == {"fed.example.org", "localhost"}
    addresses = {n.value for n in permitted if not isinstance(n, DNSName)}
    assert addresses == {ipaddress.ip_network("10.1.2.3/32"), ipaddress.ip_network("127.0.0.1/32")}
    assert certificates.consortium(ca) == "tumours"
    certificates.check_authority(ca)


def served(folder, key, ca, hosts, now):
    """(file of the authority, file of server's certificate and key) for a door."""
    own = ec.generate_private_key(ec.SECP256R1())
    made = certificates.server_certificate(key, ca, own.public_key(), hosts, now)
    secret = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem, root = folder / "server.pem", folder / "ca.crt"
    pem.write_bytes(certificates.text(made).encode() + secret)
    root.write_text(certificates.text(ca))
    return root, pem


def visit(root, pem):
    """Status of a GET over TLS that trusts `root` only."""
    with doors.door(pem, lambda: 0.0) as address:
        trusted = ssl.create_default_context(cafile=root)
        return httpx.get(f"https://{address}/", verify=trusted, trust_env=False).status_code


def test_openssl_takes_the_server_and_refuses_what_the_authority_may_not_certify(tmp_path):
    """A certificate for its hosts is taken; one that also names another host is not, though the authority signed it."""
    import time

    key, ca = certificates.new_authority("tumours", HOSTS, time.time())
    assert visit(*served(tmp_path, key, ca, HOSTS, time.time())) == 200
    with pytest.raises(httpx.ConnectError, match="permitted subtree violation"):
        visit(*served(tmp_path, key, ca, (*HOSTS, "bank.example.com"), time.time()))


def test_a_certificate_is_good_for_its_purpose_and_its_time_only(consortium):
    """A site's signs no roster, before and after its dates it signs nothing, and the dates are as asked for."""
    key, ca = consortium
    public = keys.new_signing().public_key()
    site = certificates.site_certificate(key, ca, public, "north", NOW, NOW + 1000)
    certificates.check(site, ca, certificates.SITE, NOW, "it")
    assert certificates.dates_of(site) == (NOW, NOW + 1000)
    with pytest.raises(Refused, match="it was made for another purpose"):
        certificates.check(site, ca, certificates.ROSTER, NOW, "it")
    with pytest.raises(Refused, match="it is valid from 2027-01-15 on"):
        certificates.check(site, ca, certificates.SITE, NOW - 1, "it")
    with pytest.raises(Refused, match="it was valid until 2027-01-15"):
        certificates.check(site, ca, certificates.SITE, NOW + 1000, "it")
    roster = certificates.roster_certificate(key, ca, public, NOW)
    certificates.check(roster, ca, certificates.ROSTER, NOW - 3599, "it")  # clocks differ


def test_another_authority_of_the_same_name_is_refused(consortium):
    """The signature counts, not the name."""
    key, ca = certificates.new_authority("tumours", HOSTS, NOW)
    site = certificates.site_certificate(key, ca, keys.new_signing().public_key(), "north", NOW, NOW + 1000)
    with pytest.raises(Refused, match="it was made by another authority"):
        certificates.check(site, consortium[1], certificates.SITE, NOW, "it")


def test_what_is_no_authority_is_no_authority(consortium):
    """A site's certificate, and a self-made one for all hosts of the world."""
    key, ca = consortium
    site = certificates.site_certificate(key, ca, keys.new_signing().public_key(), "north", NOW, NOW + 1000)
    with pytest.raises(Refused, match="constrained to its hosts"):
        certificates.check_authority(site)


def test_an_authority_for_the_whole_world_is_refused(tmp_path):
    """Who asks a hospital to trust one that may certify any host asks too much."""
    ca, _ = doors.authority(tmp_path)
    with pytest.raises(Refused, match="constrained to its hosts"):
        certificates.check_authority(certificates.read(ca.read_bytes(), "it"))
    with pytest.raises(Refused, match="it is no certificate in PEM"):
        certificates.read(b"nonsense", "it")
