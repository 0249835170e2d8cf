"""CLI commands `release keys`, `trust` and `revoke`: whose signatures a registry accepts. The group `release` is loaded from here, whole."""

from pathlib import Path
from typing import Annotated

import typer

from moworld_ops.pipelines.cli.layout import Json, option
from moworld_ops.pipelines.cli.output import moment_text
from moworld_ops.pipelines.cli.release import Reason, Where, app, open_registry, print_result, print_rows


@app.command("keys")
def keys_(profile: Where = "", json: Json = False) -> None:
    """List the keys that the registry trusts.

    Example: moworld release keys
    """
    from moworld_ops.components.platform.ledger import trusted_keys

    entries = open_registry(profile).ledger.entries()
    trusted = trusted_keys(entries)
    found = [
        {"fingerprint": fingerprint, "name": entry["name"], "by": entry["by"], "time": entry["time"], "public_key": key.pem}
        for fingerprint, key in trusted.items()
        for entry in [next(one for one in reversed(entries) if one.get("public_key") == key.pem)]
    ]
    rows = [(one["fingerprint"][:12], one["name"], one["by"], moment_text(one["time"])) for one in found]
    print_rows(json, found, "trusted keys", ("key", "name", "added by", "time"), rows)


@app.command()
def trust(
    key: Annotated[Path, typer.Argument(help="Public key of another manager, PEM.")],
    name: Annotated[str, option("Name of the manager, as history shows it.")],
    profile: Where = "",
    json: Json = False,
) -> None:
    """Trust the key of another manager. Your own key must be trusted.

    Example: moworld release trust bob.pub --name bob
    """
    from moworld_ops.components.platform import releases

    added = releases.trust(open_registry(profile), key, name)
    print_result(json, {"fingerprint": added.fingerprint, "name": name}, f"key {added.fingerprint[:12]} of {name} is trusted")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Fingerprint of a key, or its beginning.")],
    reason: Reason = "",
    compromised: Annotated[bool, option("Models that it signed are invalid, too.", "--compromised")] = False,
    profile: Where = "",
    json: Json = False,
) -> None:
    """Stop trusting a key.

    Example: moworld release revoke 3f9a0c --reason "bob left"
    """
    from moworld_ops.components.platform import releases

    removed = releases.revoke(open_registry(profile), key, reason, compromised)
    print_result(json, {"fingerprint": removed}, f"key {removed[:12]} is not trusted any more")
