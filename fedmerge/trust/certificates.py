"""The consortium's X.509 certificates: an authority that is good for its own hosts only, and what it certifies.

Four kinds. The authority is self-signed and constrained by name: even with its key nobody can make a certificate that a
browser or a node takes for another host. The server's certificate names its hosts. The roster's certificate says which
key signs rosters, a site's which key signs for that site; a private purpose in each tells the two apart, so that a site
cannot sign a roster.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmerge.errors import Refused
from fedmerge.trust import keys
from fedmerge.trust.dates import DAY, day

LOOPBACK = ("localhost", "127.0.0.1")
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
ROSTER = x509.ObjectIdentifier(
    "2.25.139325573612498230284640184307195316261"
)  # 2.25 and a random UUID, as X.667 allows
SITE = x509.ObjectIdentifier("2.25.256116308230411297341279417389246720537")
AUTHORITY_DAYS = 3650
OWN_DAYS = 1826  # of the server's and the roster's certificate, which `fedmerge server renew` makes anew
EARLY_S = 3600  # a certificate is valid this long before it is made: clocks differ


def new_authority(name: str, hosts: Sequence[str], now: float) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A consortium's key (P-384) and its self-signed certificate.

    Args:
        name: the consortium's.
        hosts: DNS names and IP addresses that the authority may certify, besides loopback.
        now: seconds since 1970.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    permitted: list[x509.GeneralName] = []
    for host in _whole(hosts):
        address = _address(host)
        permitted.append(x509.DNSName(host) if address is None else x509.IPAddress(ipaddress.ip_network(address)))
    own = _subject(name, f"{name} authority")
    builder = _builder(own, own, key.public_key(), now - EARLY_S, now + AUTHORITY_DAYS * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return key, builder.sign(key, hashes.SHA384())


def server_certificate(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    public: ec.EllipticCurvePublicKey,
    hosts: Sequence[str],
    now: float,
) -> x509.Certificate:
    """The certificate of front door and SuperLink: for the hosts and loopback, for five years.

    Args:
        key: the authority's.
        authority: its certificate.
        public: the server's key.
        hosts: DNS names and IP addresses.
        now: seconds since 1970.
    """
    names: list[x509.GeneralName] = []
    for host in _whole(hosts):
        address = _address(host)
        names.append(x509.DNSName(host) if address is None else x509.IPAddress(address))
    return _certified(
        key, authority, public, "server", SERVER, now, _own_end(authority, now), x509.SubjectAlternativeName(names)
    )


def roster_certificate(
    key: ec.EllipticCurvePrivateKey, authority: x509.Certificate, public: Ed25519PublicKey, now: float
) -> x509.Certificate:
    """The authority's word that `public` signs rosters, for five years; arguments as above."""
    return _certified(key, authority, public, "roster", ROSTER, now, _own_end(authority, now))


def site_certificate(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    public: Ed25519PublicKey,
    site: str,
    since: float,
    until: float,
) -> x509.Certificate:
    """The authority's word that `public` signs for a site.

    Args:
        key: the authority's.
        authority: its certificate.
        public: the site's signing key.
        site: its name.
        since: from when on, seconds since 1970.
        until: up to when, seconds since 1970; at most as long as the authority itself.
    """
    return _certified(key, authority, public, site, SITE, since + EARLY_S, min(until, _end(authority)))


def text(certificate: x509.Certificate) -> str:
    """The certificate in PEM."""
    return certificate.public_bytes(Encoding.PEM).decode()


def read(data: bytes, who: str) -> x509.Certificate:
    """The one certificate of a PEM text.

    Raises:
        Refused: it is none; the sentence begins with `who`.
    """
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError:
        raise Refused(f"{who} is no certificate in PEM") from None


def fingerprint(certificate: x509.Certificate) -> str:
    """The fingerprint of the certificate's DER bytes, as `keys.fingerprint` writes it."""
    return keys.fingerprint(certificate.public_bytes(Encoding.DER))


def check_authority(authority: x509.Certificate) -> None:
    """Refuse a certificate that is no self-signed authority with names to which it is constrained."""
    try:
        authority.verify_directly_issued_by(authority)
        basic = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
        names = authority.extensions.get_extension_for_class(x509.NameConstraints)
        sound = basic.ca and names.critical and bool(names.value.permitted_subtrees)
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        sound = False
    if not sound:
        raise Refused("the authority's certificate expected one that signs itself and is constrained to its hosts")


def consortium(certificate: x509.Certificate) -> str:
    """The consortium's name in a certificate; empty where it has none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(found[0].value) if found else ""


def check(
    certificate: x509.Certificate, authority: x509.Certificate, purpose: x509.ObjectIdentifier, now: float, who: str
) -> None:
    """Check that an authority made a certificate for a purpose, and that it is in force.

    Args:
        certificate: what is checked.
        authority: the pinned one.
        purpose: `SERVER`, `ROSTER` or `SITE`.
        now: seconds since 1970.
        who: what the certificate is, for the sentence.

    Raises:
        Refused: another authority, another purpose, or not in force at `now`.
    """
    check_authority(authority)
    try:
        certificate.verify_directly_issued_by(authority)
        found = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except (InvalidSignature, ValueError, TypeError):
        raise Refused(f"{who} was made by another authority") from None
    except x509.ExtensionNotFound:
        found = []
    if found != [purpose]:
        raise Refused(f"{who} was made for another purpose")
    since, until = dates_of(certificate)
    if now < since:
        raise Refused(f"{who} is valid from {day(since)} on, and it is {day(now)} here")
    if now >= until:
        raise Refused(f"{who} was valid until {day(until)}, and it is {day(now)} here")


def dates_of(certificate: x509.Certificate) -> tuple[float, float]:
    """From when and up to when a certificate is valid, seconds since 1970."""
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def _certified(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    public: ec.EllipticCurvePublicKey | Ed25519PublicKey,
    name: str,
    purpose: x509.ObjectIdentifier,
    since: float,
    until: float,
    *more: x509.SubjectAlternativeName,
) -> x509.Certificate:
    subject = _subject(consortium(authority), name)
    builder = _builder(subject, authority.subject, public, since - EARLY_S, until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(ca=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=purpose != SERVER)
    own = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(own, critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA384())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey | Ed25519PublicKey,
    since: float,
    until: float,
) -> x509.CertificateBuilder:
    serial = x509.random_serial_number()
    start, end = (datetime.fromtimestamp(int(moment), UTC) for moment in (since, until))
    return x509.CertificateBuilder(issuer, subject, public, serial, start, end)


def _subject(consortium: str, name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, consortium), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _own_end(authority: x509.Certificate, now: float) -> float:
    """When a certificate of the consortium's own ends that is made now: never after the authority itself."""
    return min(now + OWN_DAYS * DAY, _end(authority))


def _end(authority: x509.Certificate) -> float:
    return authority.not_valid_after_utc.timestamp()


def _whole(hosts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*hosts, *LOOPBACK]))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
