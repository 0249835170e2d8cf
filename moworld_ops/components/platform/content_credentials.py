"""C2PA content credentials (specification 2.x) in videos: a manifest that says which model generated them, signed by the key of a release manager.

Written where this machine has a private key and the extra `c2pa` is installed, into the formats that its package supports: MP4 and GIF,
not WebM. No authority vouches for the key, so a verifier of others calls the signer unknown; `verify_manifest` accepts the keys that a registry
trusts. There is no timestamp of an authority either. Nothing is fetched.
"""

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moworld.errors import InputError, IntegrityError
from moworld.extras import require
from moworld.inference.provenance import Embedder
from moworld_ops.components.platform import keys
from moworld_ops.components.platform.keys import PublicKey

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
LABEL = "org.moworld.origin"  # of our own assertion: model, seed, prompt
SUFFIXES = (".mp4", ".gif")
ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
VALID = timedelta(days=3650)
EMAIL_PROTECTION = "1.3.6.1.5.5.7.3.4"  # the purpose that C2PA asks of a signer's certificate, where it has none of its own
ROOT, SIGNER = "MoWorld root", "MoWorld signer"


@dataclass(frozen=True)
class Manifest:
    """The manifest of a video. signer: fingerprint of the accepted key that made it, "" for any other; facts: our assertion."""

    signer: str
    facts: dict[str, Any]


def is_installed() -> bool:
    """Returns whether the package is installed."""
    return importlib.util.find_spec("c2pa") is not None


def embedder() -> Embedder | None:
    """Returns a function that writes a manifest into a video; None without a private key or the package."""
    return embed if is_installed() and keys.private_path().is_file() else None


def embed(video: Path, facts: dict[str, Any]) -> None:
    """Replaces a video by one with a manifest. A format that has none stays as it is. Raises InputError if the package refuses."""
    if video.suffix.lower() not in SUFFIXES:
        return
    c2pa = require("c2pa", "c2pa")
    private = keys.load_private(keys.signing_key(create=False)[0])
    algorithm = getattr(c2pa.C2paSigningAlg, ALGORITHMS[private.curve.name])
    # the same suffix, by which the package recognises the format
    signed = video.with_name(f".{os.getpid()}-{video.stem[:100]}{video.suffix}")
    try:
        with (
            c2pa.Signer.from_callback(partial(_raw_signature, private), algorithm, _chain(private)) as signer,
            c2pa.Builder(_definition(video, facts)) as builder,
        ):
            builder.sign_file(str(video), str(signed), signer)
        os.replace(signed, video)
    except c2pa.C2paError as error:
        raise InputError(video, "content credentials", error, "a video that C2PA can be written into", "use .mp4, or remove the extra c2pa") from None
    finally:
        signed.unlink(missing_ok=True)


def verify_manifest(video: Path, accepted: Sequence[PublicKey]) -> Manifest | None:
    """Returns the manifest of a video; None if it has none, or the package is not installed.

    Raises IntegrityError if the video is not what its manifest was made for, InputError if the manifest cannot be read.
    """
    if not is_installed() or video.suffix.lower() not in SUFFIXES:
        return None
    found = _read(video, None)
    if found is None:
        return None
    status = {one["code"]: one.get("explanation", "") for one in found.get("validation_status", ())}
    if found.get("validation_state") == "Invalid":
        codes = sorted(set(status) - {"signingCredential.untrusted"})
        raise IntegrityError(video, "content credentials", ", ".join(codes) or "invalid", "the video that they were made for", "use the original file")
    assertions = found["manifests"][found["active_manifest"]].get("assertions", ())
    facts: dict[str, Any] = next((one["data"] for one in assertions if one.get("label") == LABEL), {})
    return Manifest(next((key.fingerprint for key in accepted if _is_signed_by(video, key)), ""), facts)


def _is_signed_by(video: Path, key: PublicKey) -> bool:
    found = _read(video, key)
    return found is not None and found.get("validation_state") == "Trusted"


def _read(video: Path, trusted: PublicKey | None) -> dict[str, Any] | None:
    """Returns the report of the package on a video, None if there is no manifest. trusted: the only key that vouches for a signer."""
    c2pa = require("c2pa", "c2pa")
    settings: dict[str, Any] = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True}}
    if trusted is not None:
        settings["trust"] = {"trust_anchors": _anchor(trusted), "trust_config": EMAIL_PROTECTION}
    try:
        with c2pa.Context(c2pa.Settings.from_dict(settings)) as context:
            reader = c2pa.Reader.try_create(str(video), context=context)
            if reader is None:
                return None
            with reader:
                return dict(json.loads(reader.json()))
    except c2pa.C2paError as error:
        raise InputError(video, "content credentials", error, "a manifest of C2PA", "use the original file") from None


def _definition(video: Path, facts: dict[str, Any]) -> str:
    created = {"action": "c2pa.created", "digitalSourceType": GENERATED}
    return json.dumps({
        "claim_generator_info": [{"name": "moworld", "version": version("moworld-operations")}],
        "title": video.name,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}, {"label": LABEL, "data": facts}],
    })  # fmt: skip


def _raw_signature(private: Any, data: bytes) -> bytes:
    """Returns a key's signature as C2PA (COSE) has it: r and s, each as long as the curve's order."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    length = (private.curve.key_size + 7) // 8
    return b"".join(number.to_bytes(length, "big") for number in decode_dss_signature(keys.sign_with(private, data)))


def _chain(private: Any) -> str:
    """Returns the certificates of a key, PEM. C2PA refuses a signer's certificate that is its own issuer, so a root of the same key issues it."""
    now = datetime.now(UTC)
    span = now - timedelta(days=1), now + VALID
    public = private.public_key()
    return _certificate(public, SIGNER, False, span, private) + _certificate(public, ROOT, True, span, private)


def _anchor(key: PublicKey) -> str:
    """Returns a root certificate for a public key, PEM. A verifier takes its name and key; who signed a root is not checked."""
    from cryptography.hazmat.primitives.asymmetric import ec

    public = key.load()
    return _certificate(public, ROOT, True, (datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC) + VALID), ec.generate_private_key(public.curve))


def _certificate(public: Any, name: str, root: bool, span: tuple[datetime, datetime], issuer: Any) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "MoWorld"), x509.NameAttribute(NameOID.COMMON_NAME, text)])

    usage = x509.KeyUsage(not root, False, False, False, False, root, root, False, False)
    builder = x509.CertificateBuilder(named(ROOT), named(name), public, x509.random_serial_number(), *span)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(root, None), True), (usage, True), (x509.SubjectKeyIdentifier.from_public_key(public), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(public), False),
    ]  # fmt: skip
    if not root:
        extensions.append((x509.ExtendedKeyUsage([x509.ObjectIdentifier(EMAIL_PROTECTION)]), False))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    digest = getattr(hashes, keys.CURVES[issuer.curve.name])()
    return str(builder.sign(issuer, digest).public_bytes(Encoding.PEM).decode())
