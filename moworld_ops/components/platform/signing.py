"""Signatures of folders by OpenSSF model signing with an elliptic-curve key; works offline. Keys are in keys.py.

`model_signing` writes the signatures. They are verified here, because importing that package takes longer (1 to 3 s) than verifying: the
envelope is DSSE, its payload an in-toto statement with the SHA-256 of every file. A test compares the verdicts of both.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from moworld.errors import InputError, IntegrityError
from moworld.extras import require
from moworld_ops.components.platform import keys
from moworld_ops.components.platform.artifacts import Artifacts, LocalArtifacts
from moworld_ops.components.platform.keys import PublicKey

PAYLOAD, PREDICATE = "application/vnd.in-toto+json", "https://model_signing/signature/v1.0"
RESTORE = "restore the model from the registry"


class _PublicKey(BaseModel):
    hint: str


class _Material(BaseModel):
    publicKey: _PublicKey


class _Signature(BaseModel):
    sig: str


class _Envelope(BaseModel):
    payload: str
    payloadType: str
    signatures: Annotated[list[_Signature], Field(min_length=1)]


class _Bundle(BaseModel):
    """A signature as OpenSSF model signing writes it, in the names of Sigstore's format."""

    verificationMaterial: _Material
    dsseEnvelope: _Envelope


class _Resource(BaseModel):
    name: str
    digest: str
    algorithm: str


class _Predicate(BaseModel):
    resources: list[_Resource]


class _Subject(BaseModel):
    digest: dict[str, str]


class _Statement(BaseModel):
    """What is signed: the SHA-256 of every file, and of all of them."""

    predicateType: str
    predicate: _Predicate
    subject: Annotated[list[_Subject], Field(min_length=1)]


def sign(model: Path, signature: Path) -> None:
    """Signs every file of a folder and writes the signature. Raises InputError for an unusable key."""
    signing, hashing = require("model_signing.signing", "registry"), require("model_signing.hashing", "registry")
    signature.parent.mkdir(parents=True, exist_ok=True)
    private, _ = keys.signing_key()
    password = keys.password()
    config = signing.Config().set_hashing_config(hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False))
    config.use_elliptic_key_signer(private_key=private, password=password.encode() if password else None).sign(model, signature)


def verify(model: Path, signature: Path, accepted: Sequence[PublicKey] | None = None) -> dict[str, str]:
    """Returns the SHA-256 of every file of a folder, by relative name, each read once.

    accepted: keys to accept; default: `keys.configured_keys()`
    Raises IntegrityError if the folder differs from what was signed, InputError if it has no signature or no key is accepted.
    """
    if not signature.is_file():
        raise InputError(model, signature.name, "no signature", "a signed model", "register the model again")
    accepted = keys.configured_keys() if accepted is None else accepted
    return compare(str(model), LocalArtifacts(model), signed_hashes(str(model), signature.read_bytes(), accepted))


def signed_hashes(subject: str, signature: bytes, accepted: Sequence[PublicKey]) -> dict[str, str]:
    """Returns the SHA-256 of every file that a signature covers, by relative name.

    Raises IntegrityError unless one of the keys `accepted` made the signature, InputError if there is no such key at all.
    """
    if not accepted:
        expected = f"a public key in keys/trusted/ of the state folder, or {keys.PUBLIC}"
        raise InputError(subject, "signature", "no public key to verify it with", expected, "copy signing.pub of the registry's manager")
    try:
        bundle = _Bundle.model_validate_json(signature)
    except ValidationError:
        raise _changed(subject, "a signature that cannot be read") from None
    envelope, hint = bundle.dsseEnvelope, bundle.verificationMaterial.publicKey.hint
    payload, found = keys.decode(envelope.payload), keys.decode(envelope.signatures[0].sig)
    typed = envelope.payloadType == PAYLOAD
    data = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)
    if hint not in {key.fingerprint for key in accepted}:
        known = ", ".join(key.fingerprint[:12] for key in accepted)
        found_key = f"a signature by key {hint[:12]}, so it is not what was signed with a trusted key"
        raise IntegrityError(subject, "signature", found_key, f"one by a trusted key: {known}", "see 'moworld release keys'")
    if not (typed and any(key.verifies(found, data) for key in accepted if key.fingerprint == hint)):
        raise _changed(subject, "a signature that its key did not make")
    return _files(subject, payload)


def compare(subject: str, artifacts: Artifacts, expected: dict[str, str]) -> dict[str, str]:
    """Returns `expected` after comparing it with the files, each read once. Raises IntegrityError for the first difference."""
    names = set(artifacts.names())
    for name in sorted(names ^ expected.keys()):
        raise _changed(subject, f"file {name} {'that was not signed' if name in names else 'missing'}")
    for name, digest in sorted(expected.items()):
        with artifacts.open(name) as stream:
            if _sha256(stream) != digest:
                raise _changed(subject, f"file {name} with another content")
    return expected


def _files(subject: str, payload: bytes) -> dict[str, str]:
    try:
        statement = _Statement.model_validate_json(payload)
        resources = statement.predicate.resources
        files = {one.name: one.digest for one in resources}
        root = hashlib.sha256(b"".join(bytes.fromhex(one.digest) for one in resources)).hexdigest()
    except ValueError:
        raise _changed(subject, "a signed statement of an unknown form") from None
    sound = statement.predicateType == PREDICATE and statement.subject[0].digest.get("sha256") == root
    sound = sound and len(files) == len(resources) and {one.algorithm for one in resources} <= {"sha256"}
    if not sound:
        raise _changed(subject, "a signed statement of an unknown form")
    return files


def _sha256(stream: object) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):  # type: ignore[attr-defined]
        digest.update(block)
    return digest.hexdigest()


def _changed(subject: str, found: str) -> IntegrityError:
    return IntegrityError(subject, "signature", f"a model that is not what was signed ({found})", "the registered files, unchanged", RESTORE)
