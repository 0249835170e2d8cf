"""Signs and verifies the records of videos (`moworld/inference/provenance.py`) with the keys of release managers, and identifies models.

A machine without a key writes unsigned records. Nothing here creates a key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moworld.errors import InputError, IntegrityError
from moworld.files import sha256_file, sha256_of_hashes, sha256_tree
from moworld.inference.provenance import ModelIdentity, Record, Sidecar, Signature, Signer, read_sidecar, sidecar_path
from moworld_ops.components.platform import keys, signing
from moworld_ops.components.platform.content_credentials import Manifest, verify_manifest
from moworld_ops.components.platform.keys import PublicKey
from moworld_ops.components.platform.registry import ModelRegistry, Version
from moworld_ops.components.platform.verification import accepted_signers, verify_evidence

CHANGED = "the file is not what the record describes; use the original"


@dataclass(frozen=True)
class VerifiedVideo:
    """A video that is what its record says.

    signer:     fingerprint of the record's key, "" if it is unsigned
    registered: the registry confirms the model
    manifest:   its content credentials, None if it has none or they cannot be read on this machine
    """

    video: Path
    record: Record
    signer: str
    registered: bool
    manifest: Manifest | None


def signer() -> Signer | None:
    """Returns a function that signs with this machine's private key, None if there is no key. Raises InputError for an unusable key."""
    if not keys.private_path().is_file():
        return None
    keys.signing_key(create=False)  # raises now, not when the video has been computed

    def sign(data: bytes) -> Signature:
        value, public = keys.sign(data)
        return Signature(key=public.fingerprint, value=keys.encode(value))

    return sign


def identify_model(reference: str, folder: Path) -> ModelIdentity:
    """Returns the identity of a model. Every file of the folder is read.

    reference: as the user named it; a registered NAME@ALIAS gets name, version and data revision
    """
    digest, signature = sha256_tree(folder), folder.resolve().parent / f"{folder.resolve().name}.sig"
    name = revision = number = ""
    registered = reference and "/" not in reference and not Path(reference).exists()  # a folder needs no registry, nor its packages
    if registered and (registry := _registry()) is not None:
        version = registry.find(reference)
        name, number, revision = version.name, version.version, version.tags.get("data_revision", "")
    return ModelIdentity(sha256=digest, name=name, version=number, data_revision=revision, signed_by=_signer_of(folder, signature, digest))


def verify_video(path: Path, unsigned: bool = False, registry: ModelRegistry | None = None) -> VerifiedVideo:
    """Checks a video and its record. path: either of the two.

    registry: whose trusted keys count and which may know the model; None is that of this machine's settings, if there is one
    unsigned: accept a record without a signature, which proves only that the two files belong together
    Raises InputError for missing files and records that cannot be read; IntegrityError for a video or a record that was changed, an
    unknown signer, a missing signature, and a registry whose version of that name is another model.
    """
    video, sidecar_file = _both(path)
    sidecar, data = read_sidecar(sidecar_file)
    record = sidecar.record
    if (found := sha256_file(video)) != record.sha256:
        raise IntegrityError(video, "sha256", found, f"{record.sha256}, as in {sidecar_file.name}", CHANGED)
    registry = registry or _registry()
    key = _verified_signer(sidecar_file, sidecar, data, registry)
    if not key and not unsigned:
        expected, fix = "a signature by a trusted key", "pass --unsigned to check the two files against each other only"
        raise IntegrityError(sidecar_file, "signature", "none, so anyone could have written this record", expected, fix)
    manifest = verify_manifest(video, _accepted(registry))
    if manifest is not None and manifest.signer != key:
        found = f"a manifest by {f'key {manifest.signer[:12]}' if manifest.signer else 'a key that nobody trusts'}"
        if not unsigned:
            raise IntegrityError(video, "content credentials", found, f"one by key {key[:12]}, as the record", "use the original file")
    return VerifiedVideo(video, record, key, _confirmed(registry, sidecar_file, record), manifest)


def _both(path: Path) -> tuple[Path, Path]:
    """Returns video and sidecar of either of them."""
    video = path.with_suffix("") if path.suffix == ".json" else path
    if not video.is_file():
        raise InputError(video, "", "no such file", "a video with its record", "check the path")
    if not (record := sidecar_path(video)).is_file():
        raise InputError(record, "", "no such file", f"the record of {video.name}", "keep the two files together")
    return video, record


def _verified_signer(path: Path, sidecar: Sidecar, data: bytes, registry: ModelRegistry | None) -> str:
    """Returns the fingerprint of the key that signed, "" if the record is unsigned. Raises IntegrityError for a signature that does not hold."""
    if sidecar.signature is None:
        return ""
    accepted = _accepted(registry)
    if not accepted:
        expected = f"a public key in keys/trusted/ of the state folder, or {keys.PUBLIC}"
        raise InputError(path, "signature", "no public key to verify it with", expected, "copy signing.pub of the project's manager")
    known = [key for key in accepted if key.fingerprint == sidecar.signature.key]
    if not known:
        listed = ", ".join(key.fingerprint[:12] for key in accepted)
        found = f"one by key {sidecar.signature.key[:12]}"
        raise IntegrityError(path, "signature", found, f"one by a trusted key: {listed}", "see 'moworld release keys'")
    if not known[0].verifies(keys.decode(sidecar.signature.value), data):
        raise IntegrityError(path, "signature", "a record that its key did not sign", "the signed record, unchanged", "use the original file")
    return known[0].fingerprint


def _accepted(registry: ModelRegistry | None) -> Sequence[PublicKey]:
    return accepted_signers(registry) if registry is not None else keys.configured_keys()


def _confirmed(registry: ModelRegistry | None, path: Path, record: Record) -> bool:
    """Returns whether this registry has the version that the record names. Raises IntegrityError if it is another model or data."""
    model = record.model
    if registry is None or not model.name:
        return False
    version = next((one for one in registry.versions(model.name) if one.version == model.version), None)
    if version is None:
        return False
    evidence = verify_evidence(registry, version)
    for field, found, expected in (
        ("model.sha256", model.sha256, evidence.model_sha256),
        ("model.data_revision", model.data_revision, str(evidence.evidence.get("data_revision", ""))),
    ):
        if found != expected:
            source = f"{expected}, as in the signed evidence of {_label(version)}"
            raise IntegrityError(path, field, found, source, "the video is not of this registry's model")
    return True


def _label(version: Version) -> str:
    return f"{version.name} version {version.version}"


def _registry() -> ModelRegistry | None:
    """Returns the registry of this machine's settings, None if there is none."""
    registry = ModelRegistry()
    return registry if registry.exists else None


def _signer_of(folder: Path, signature: Path, digest: str) -> str:
    """Returns the fingerprint of the key that signed exactly this folder, "" if no key that this machine accepts did."""
    for key in keys.configured_keys() if signature.is_file() else []:
        try:
            hashes = signing.signed_hashes(str(folder), signature.read_bytes(), [key])
        except IntegrityError:  # by another key
            continue
        if sha256_of_hashes(hashes) == digest:
            return key.fingerprint
    return ""
