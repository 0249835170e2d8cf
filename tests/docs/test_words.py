"""The tree is in plain technical English: words of the project's former dialect do not come back (CONTRIBUTING.md, "Style")."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIALECT = {
    r"mend(s|ed|ing)?": "fix",
    r"doors?": "command",
    r"told|tells?": "reported, reports",
    r"heard|hears?": "received, used",
    r"pass(ed|es)? over": "ignored",
    r"house": "repository",
    r"lies (in|at|beside|under|with|there|on)": "is",
    r"hand(ed|s)? back": "returned",
    r"left away|leave (it|them|this|that) away": "omitted, omit it",
    r"go(es|ing)? on with|went on with": "continue with",
    r"ha(s|ve) no say": "is ignored",
    r"know (no|of|nothing)|knows": "has no",
    r"(is|are|was|were) asked (for|of|to)?": "is required, requested",
    r"anew": "again",
    r"what is wanted": "expected",
}
# (file, word) -> the reason why it stays; "*" is any word.
ALLOWED = {
    ("tests/docs/test_words.py", "*"): "the list itself",
    ("LICENSE", "*"): "a published text",
    ("moworld_ops/components/platform/preflight.py", "mend"): "key of checks.json, a published format",
    ("moworld_ops/components/preflight/step.py", "mend"): "key of checks.json",
    ("moworld_ops/components/preflight/component.py", "mend"): "names the keys of checks.json",
    ("moworld_ops/components/preflight/README.md", "mend"): "generated from component.py",
    ("moworld_ops/pipelines/cli/doctor.py", "mend"): "key of `doctor --json` since version 0.1",
    ("tests/moworld_ops/pipelines/test_doctor.py", "mend"): "key of `doctor --json`",
    ("tests/moworld_ops/components/platform/test_preflight.py", "mend"): "key of checks.json",
    ("moworld/training/trainer.py", "told"): "key in checkpoints that exist",
    ("moworld/model/costs.py", "pass over"): "a forward pass over tokens",
    ("tests/moworld/data/test_captions.py", "door"): "example sentences of captions",
    ("tests/moworld/model/test_text.py", "door"): "an example caption",
}
SUFFIXES = {".py", ".md", ".html", ".css", ".js", ".yaml", ".yml", ".toml", ".json", ".hcl", ".cff", ".txt", ""}


EDGES = r"(?i)(?<![a-z0-9-])(?:{})(?![a-z0-9-])"  # names with underscores count, compounds with hyphens do not
GOLDEN = "tests/moworld_ops/pipelines/golden/"  # compiled from the components, whose sources are checked


def findings(text: str) -> list[str]:
    """Returns `line: 'word', write: ...` for each word of the dialect, in the order of the text."""
    found = [
        (match.start(), f"{text.count(chr(10), 0, match.start()) + 1}: '{match[0].lower()}', write: {better}")
        for pattern, better in DIALECT.items()
        for match in re.finditer(EDGES.format(pattern), text)
    ]
    return [line for _, line in sorted(found)]


def is_allowed(name: str, finding: str) -> bool:
    return (name, "*") in ALLOWED or (name, finding.split("'")[1]) in ALLOWED


def test_no_file_uses_the_former_dialect():
    names = subprocess.check_output(["git", "-C", ROOT, "ls-files"], text=True).splitlines()
    found = [
        f"{name}:{finding}"
        for name in names
        if Path(name).suffix in SUFFIXES and not name.startswith(GOLDEN) and (ROOT / name).is_file()
        for finding in findings((ROOT / name).read_text(encoding="utf-8"))
        if not is_allowed(name, finding)
    ]
    assert not found, "\n".join(found)


def test_every_exception_is_used():
    used = {
        (name, word)
        for name, word in ALLOWED
        if word == "*" or any(finding.split("'")[1] == word for finding in findings((ROOT / name).read_text(encoding="utf-8")))
    }
    assert used == set(ALLOWED), set(ALLOWED) - used


def test_a_word_of_the_dialect_is_found_and_its_neighbours_are_not():
    assert [line.split(",")[0] for line in findings("the mend lies in a door\nrecommend, mending-free, outdoors, believes in")] == [
        "1: 'mend'", "1: 'lies in'", "1: 'door'",
    ]  # fmt: skip
