"""Model signatures by OpenSSF model signing with an elliptic-curve key pair; works offline.

Without MOWORLD_SIGNING_KEY a key pair is created once in the state folder. It proves that a model is the one registered there, not who
made it.
"""

import os
from pathlib import Path

from moworld.errors import InputError
from moworld.extras import require
from moworld_ops.components.platform.home import home


def key_pair() -> tuple[Path, Path]:
    """Returns the paths of the private and the public key; creates the default pair if missing."""
    configured = _configured("MOWORLD_SIGNING_KEY", "private")
    private = configured or home() / "keys" / "signing.pem"
    public = Path(os.environ.get("MOWORLD_SIGNING_PUBLIC_KEY") or private.with_suffix(".pub"))
    if not private.is_file():
        _create(private, public)
    return private, public


def public_key() -> Path:
    """Returns the path of the verification key; MOWORLD_SIGNING_PUBLIC_KEY alone suffices if nothing is signed."""
    return _configured("MOWORLD_SIGNING_PUBLIC_KEY", "public") or key_pair()[1]


def sign(model: Path, signature: Path) -> None:
    """Signs every file of a model folder and writes the signature."""
    signing = require("model_signing.signing", "registry")
    signature.parent.mkdir(parents=True, exist_ok=True)
    signing.Config().use_elliptic_key_signer(private_key=key_pair()[0]).sign(model, signature)


def verify(model: Path, signature: Path) -> None:
    """Raises InputError if the folder differs from what was signed, or has no signature."""
    verifying = require("model_signing.verifying", "registry")
    if not signature.is_file():
        raise InputError(model, signature.name, "no signature", "a signed model", "register the model again")
    public = public_key()
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=public).verify(model, signature)
    except Exception as error:  # the package raises plain ValueErrors and the cryptography package's own
        found = f"a model that is not what was signed ({' '.join(str(error).split()) or type(error).__name__})"
        raise InputError(model, "signature", found, "the registered files, unchanged", "restore the model from the registry") from None


def _configured(variable: str, kind: str) -> Path | None:
    """Returns the key file that an environment variable names, or None. Raises InputError if the file is missing."""
    path = Path(os.environ[variable]) if os.environ.get(variable) else None
    if path and not path.is_file():
        raise InputError(path, variable, "no such file", f"a PEM {kind} key", "check the path, or unset it")
    return path


def _create(private: Path, public: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private.parent.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    public.write_bytes(key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
    with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
