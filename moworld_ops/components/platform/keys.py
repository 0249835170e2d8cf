"""Keys of release managers: one private key to sign with, and the public keys that a verification accepts.

    MOWORLD_SIGNING_KEY         private key, PEM; default keys/signing.pem in the state folder, created at the first signature
    MOWORLD_SIGNING_PASSWORD    password of an encrypted private key
    MOWORLD_SIGNING_PUBLIC_KEY  public keys to accept: files or directories of .pub files, separated as in PATH

Only elliptic-curve keys (P-256, P-384, P-521) are supported, because OpenSSF model signing has no other kind of key. Reading keys never
writes.
"""

import base64
import hashlib
import os
import pwd
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld_ops.components.platform.home import home

KEY, PASSWORD, PUBLIC = "MOWORLD_SIGNING_KEY", "MOWORLD_SIGNING_PASSWORD", "MOWORLD_SIGNING_PUBLIC_KEY"
CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}  # curve -> hash of its signatures (Sigstore's choice)
SUPPORTED = "an elliptic-curve key (P-256, P-384 or P-521) in PEM"
CREATE = "create one: openssl ecparam -name prime256v1 -genkey -noout -out signing.pem"


@dataclass(frozen=True)
class PublicKey:
    """A public key as PEM; `fingerprint` is the SHA-256 of that PEM, as in the signatures of OpenSSF model signing."""

    pem: str

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.pem.encode()).hexdigest()

    def load(self) -> Any:
        """Returns the key as package cryptography has it."""
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        return load_pem_public_key(self.pem.encode())

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Returns True if `signature` is one of `data` by this key."""
        from cryptography.exceptions import InvalidSignature

        key = self.load()
        try:
            key.verify(signature, data, _algorithm(key))
        except InvalidSignature:
            return False
        return True


def private_path() -> Path:
    """Returns the path of the private key. Raises InputError if MOWORLD_SIGNING_KEY names no file."""
    return _configured_private() or home() / "keys" / "signing.pem"


def password() -> str | None:
    """Returns the password of the private key, or None."""
    return os.environ.get(PASSWORD) or None


def signing_key(create: bool = True) -> tuple[Path, PublicKey]:
    """Returns the private key's path and its public key; creates the default pair if missing and `create`.

    Raises InputError for a missing, unreadable, encrypted or unsupported key.
    """
    path = private_path()
    if not path.is_file():
        if not create:
            raise InputError(path, "", "no such file", "a private key", f"set {KEY}, or {CREATE}")
        _create(path)
    return path, _public_of(load_private(path))


def load_private(path: Path) -> Any:
    """Returns a private key. Raises InputError as `signing_key`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    secret = password()
    try:
        key = load_pem_private_key(path.read_bytes(), secret.encode() if secret else None)
    except TypeError:
        found = "a key without a password" if secret else "an encrypted key"
        raise InputError(path, PASSWORD, found, f"{'no ' if secret else 'the '}password", f"{'unset' if secret else 'set'} {PASSWORD}") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        if secret and b"ENCRYPTED" in path.read_bytes():
            raise InputError(path, PASSWORD, "a password that does not open it", "the key's password", f"check the password in {PASSWORD}") from None
        found = "no PEM key that the password opens" if secret else f"no PEM private key ({type(error).__name__})"
        raise InputError(path, PASSWORD if secret else "", found, SUPPORTED, CREATE) from None
    _check(path, key.public_key())
    return key


def sign(data: bytes) -> tuple[bytes, PublicKey]:
    """Returns this manager's signature of `data` and the public key that verifies it. Raises InputError as `signing_key`."""
    path, public = signing_key()
    return sign_with(load_private(path), data), public


def sign_with(private: Any, data: bytes) -> bytes:
    """Returns the signature of `data` by a private key, DER, with the hash that belongs to its curve."""
    return bytes(private.sign(data, _algorithm(private.public_key())))


def configured_keys() -> list[PublicKey]:
    """Returns the keys that this machine accepts beside those of the registry: MOWORLD_SIGNING_PUBLIC_KEY, else those in the state folder.

    The latter are keys/signing.pub, or the public half of MOWORLD_SIGNING_KEY, and keys/trusted/*.pub. Raises InputError for a bad file.
    """
    if os.environ.get(PUBLIC):
        return pinned_keys()
    private, found = private_path(), pinned_keys()
    if private.with_suffix(".pub").is_file():
        return [*read_public(private.with_suffix(".pub")), *found]
    return [*([_public_of(load_private(private))] if private.is_file() else []), *found]


def pinned_keys() -> list[PublicKey]:
    """Returns the keys of MOWORLD_SIGNING_PUBLIC_KEY, else those in keys/trusted/ of the state folder. Raises InputError for a bad file."""
    if configured := os.environ.get(PUBLIC):
        parts = [part for part in configured.split(os.pathsep) if part.strip()]
        if not parts:
            raise InputError(PUBLIC, "", repr(configured), "files or directories of public keys", "name one, or unset it")
        return [key for part in parts for path in _files(Path(part)) for key in read_public(path)]
    return [key for path in sorted((home() / "keys" / "trusted").glob("*.pub")) for key in read_public(path)]


def read_public(path: Path) -> list[PublicKey]:
    """Returns the public keys of a file, which may hold several. Raises InputError if it holds none, or an unsupported one."""
    return parse_public(path, path.read_bytes().decode("ascii", "replace"))


def parse_public(path: object, text: str) -> list[PublicKey]:
    """Returns the public keys of a text. path: names it in an error. Raises InputError as `read_public`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    blocks = re.findall(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", text, flags=re.S)
    if not blocks:
        raise InputError(path, "", "no public key", SUPPORTED, "create it: openssl ec -in signing.pem -pubout -out signing.pub")
    found = []
    for block in blocks:
        try:
            key = load_pem_public_key(block.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InputError(path, "", f"a damaged key ({type(error).__name__})", SUPPORTED, "copy the key again") from None
        _check(path, key)
        found.append(PublicKey(_pem(key)))
    return found


def account() -> str:
    """Returns the account that runs this process, by its user id and never by a variable, and the machine: "ada@desk"."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid-{os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def encode(signature: bytes) -> str:
    return base64.b64encode(signature).decode()


def decode(text: str) -> bytes:
    """Returns the bytes of a signature; b"" for text that is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _configured_private() -> Path | None:
    path = Path(os.environ[KEY]) if os.environ.get(KEY) else None
    if path and not path.is_file():
        raise InputError(path, KEY, "no such file", "a PEM private key", "check the path, or unset it")
    return path


def _files(path: Path) -> list[Path]:
    found = sorted(path.glob("*.pub")) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        expected = "a PEM public key, or a directory of .pub files"
        raise InputError(path, PUBLIC, "no such file" if not path.is_dir() else "no .pub file", expected, "check the path, or unset it")
    return found


def _check(path: object, key: Any) -> None:
    """Raises InputError unless `key`, a public key, is of a supported kind."""
    if getattr(getattr(key, "curve", None), "name", "") not in CURVES:
        kind = type(key).__name__.lstrip("_").removesuffix("PublicKey") or "unknown"
        curve = getattr(getattr(key, "curve", None), "name", "")
        raise InputError(path, "", f"a key of kind {kind} {curve}".strip(), SUPPORTED, CREATE)


def _algorithm(key: Any) -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, CURVES[key.curve.name])())


def _public_of(private: Any) -> PublicKey:
    return PublicKey(_pem(private.public_key()))


def _pem(key: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return str(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def _create(private: Path) -> None:
    """Creates a private key and its public key, which replaces no file. Two processes that start together agree on one pair.

    Raises InputError for a public key whose private key is gone.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    public = private.with_suffix(".pub")
    if public.is_file() and not private.exists():  # in this order: another process makes the private key first
        fix = f"restore it, name it in {KEY}, or move {public.name} elsewhere to get a new pair, which a manager has to trust"
        raise InputError(private, "", "no such file", f"the private key of {public}", fix)
    private.parent.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    own = private.with_suffix(f".{os.getpid()}.{id(key)}")
    with open(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        os.link(own, private)  # fails if the file exists
        public.write_text(_pem(key.public_key()), encoding="ascii")
    except FileExistsError:
        pass
    finally:
        own.unlink()
