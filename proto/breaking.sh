#!/bin/sh
# Fails when the contract breaks callers of the previous commit (buf.yaml: breaking FILE). The argument is the buf program.
# Skips, saying why, where there is nothing to compare with: no git, the first commit, a shallow clone, no contract yet.
set -eu
buf=${1:-buf}
cd "$(dirname "$0")/.."

skip() {
    echo "buf breaking: skipped, $1"
    exit 0
}

git rev-parse --git-dir >/dev/null 2>&1 || skip "this is no git checkout"
# In a clean checkout compare the last commit with the one before; with changes in the contract, compare these with the last.
against=HEAD~1
git diff --quiet HEAD -- proto/quillgate buf.yaml 2>/dev/null || against=HEAD
git cat-file -e "$against^{commit}" 2>/dev/null || skip "there is no previous commit here"
git cat-file -e "$against:buf.yaml" 2>/dev/null || skip "the previous commit has no buf.yaml"

previous=$(mktemp -d)
trap 'rm -rf "$previous"' EXIT
git archive "$against" buf.yaml proto/quillgate | tar -x -C "$previous"
"$buf" breaking --against "$previous"
echo "buf breaking: compatible with $(git rev-parse --short "$against")"
