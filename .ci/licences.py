#!/usr/bin/env python3
"""Every crate that a manifest's tree asks for, on any platform, has a licence that deny.toml allows, and comes from the registry.

    .ci/licences.py Cargo.toml
"""
import json
import re
import subprocess
import sys


def satisfied(expression, allowed):
    """Whether an SPDX expression can be met; `/` is an old way to write OR."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    at = 0

    def peek():
        return tokens[at] if at < len(tokens) else None

    def take():
        nonlocal at
        at += 1
        return tokens[at - 1]

    def one():
        if peek() == "(":
            take()
            met = either()
            assert take() == ")", expression
            return met
        name = take()
        if peek() == "WITH":
            name = f"{name} {take()} {take()}"
        return name in allowed

    def both():
        met = one()
        while peek() == "AND":
            take()
            # Read on whatever the first part says.
            met = one() and met
        return met

    def either():
        met = both()
        while peek() == "OR":
            take()
            met = both() or met
        return met

    met = either()
    assert at == len(tokens), expression
    return met


assert satisfied("(MIT OR Apache-2.0) AND Unicode-3.0", {"MIT", "Unicode-3.0"})
assert not satisfied("(MIT OR Apache-2.0) AND Unicode-3.0", {"MIT"})
assert satisfied("Apache-2.0 WITH LLVM-exception OR MIT", {"MIT"})
assert not satisfied("Apache-2.0 WITH LLVM-exception", {"Apache-2.0"})

[manifest] = sys.argv[1:]
# Read as far as this needs it, by any Python.
with open("deny.toml", encoding="utf-8") as file:
    deny = file.read()
allowed = set(re.findall(r'"([^"]+)"', re.search(r"^allow = \[(.*)\]$", deny, re.MULTILINE)[1]))
exceptions = re.findall(r'\{ allow = \["([^"]+)"\], crate = "([^"]+)" \}', deny)
command = ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked", "--manifest-path", manifest]
packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
wrong = []
for package in packages:
    name = f"{package['name']} {package['version']}"
    # What has no source lies in this repository.
    if package["source"] is None:
        continue
    if not package["source"].startswith("registry+"):
        wrong.append(f"{name} comes from {package['source']}")
    here = allowed | {licence for licence, crate in exceptions if crate == package["name"]}
    if not satisfied(package["license"] or "none", here):
        wrong.append(f"{name} has the licence {package['license']}")
print(f"{manifest}: {len(packages)} crates")
sys.exit("\n".join(wrong) or 0)
