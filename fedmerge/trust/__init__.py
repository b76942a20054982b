"""Who is who in a consortium: keys, certificates, join requests, the signed roster, and the audit log.

Only the primitives of `cryptography` are used. `docs/trust.md` describes every format, so that a second implementation
can check what this one writes.
"""
