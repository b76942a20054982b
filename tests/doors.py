"""A front door for tests: a real TLS server on loopback whose date and answer are given, and its authority."""

import datetime
import http.server
import ipaddress
import ssl
import threading
from contextlib import contextmanager
from email.utils import formatdate

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def authority(folder, name="ca"):
    """A self-made authority and a certificate of its for 127.0.0.1: (ca.crt, server.pem with key)."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name}-{what}")]) for what in ("ca", "server")]
    now = datetime.datetime.now(datetime.UTC)

    def certificate(whose, extensions):
        made = x509.CertificateBuilder(names[0], names[whose], keys[whose].public_key(), x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=9))
        for extension, critical in extensions:
            made = made.add_extension(extension, critical=critical)
        return made.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    own = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
    folder.mkdir(parents=True, exist_ok=True)
    ca, server = folder / f"{name}.crt", folder / f"{name}-server.pem"
    ca.write_bytes(certificate(0, [(x509.BasicConstraints(True, 0), True), (usage, True)]))
    secret = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    server.write_bytes(certificate(1, [(here, False), (own, False)]) + secret)
    return ca, server


@contextmanager
def door(server, clock, body=b"{}", status=200):
    """`HOST:PORT` of a server that answers every GET with `body` and the date that `clock()` gives."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response_only(status)
            self.send_header("Date", formatdate(clock(), usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
