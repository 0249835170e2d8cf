"""Model signatures by OpenSSF model signing, with an elliptic-curve key pair; offline.

Where MOWORLD_SIGNING_KEY names no private key, a pair is made once under the state folder: it proves that a model is the one that
was registered there, not who made it.
"""

import os
from pathlib import Path

from components.platform.home import home
from moworld.errors import InputError


def key_pair() -> tuple[Path, Path]:
    """Paths of the private and the public key, made when missing."""
    configured = os.environ.get("MOWORLD_SIGNING_KEY")
    private = Path(configured) if configured else home() / "keys" / "signing.pem"
    public = Path(os.environ.get("MOWORLD_SIGNING_PUBLIC_KEY") or private.with_suffix(".pub"))
    if configured and not private.is_file():
        raise InputError(private, "MOWORLD_SIGNING_KEY", "no such file", "a PEM private key", "check the path, or unset it")
    if not private.is_file():
        _make(private, public)
    return private, public


def public_key() -> Path:
    """Path of the key that verifies: MOWORLD_SIGNING_PUBLIC_KEY alone is enough where nothing is signed."""
    configured = os.environ.get("MOWORLD_SIGNING_PUBLIC_KEY")
    if configured and not Path(configured).is_file():
        raise InputError(configured, "MOWORLD_SIGNING_PUBLIC_KEY", "no such file", "a PEM public key", "check the path, or unset it")
    return Path(configured) if configured else key_pair()[1]


def sign(model: Path, signature: Path) -> None:
    """Sign every file of a model folder."""
    from model_signing import signing

    signature.parent.mkdir(parents=True, exist_ok=True)
    signing.Config().use_elliptic_key_signer(private_key=key_pair()[0]).sign(model, signature)


def verify(model: Path, signature: Path) -> None:
    """Raises InputError when the folder is not what was signed, or there is no signature."""
    from model_signing import verifying

    if not signature.is_file():
        raise InputError(model, signature.name, "no signature", "a signed model", "register the model again")
    public = public_key()
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=public).verify(model, signature)
    except Exception as error:  # the package raises plain ValueErrors and the cryptography package's own
        found = f"a model that is not what was signed ({' '.join(str(error).split()) or type(error).__name__})"
        raise InputError(model, "signature", found, "the registered files, unchanged", "restore the model from the registry") from None


def _make(private: Path, public: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private.parent.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    public.write_bytes(key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
    with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
