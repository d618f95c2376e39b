#!/bin/sh
# Runs this package's tests for arm64 on another machine, by qemu's user mode emulation.
# usage: test-emulated.sh [go test flags]      needs: qemu-aarch64-static (Debian: qemu-user-static)
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
CGO_ENABLED=0 GOOS=linux GOARCH=arm64 go test -c -o "$tmp/kernels.test" .
qemu-aarch64-static "$tmp/kernels.test" "$@"
