#!/usr/bin/env bash
# Make an emulated aarch64 board for the tests: Debian's arm64 Python, the device bundle of 'lqcompile bundle', and a
# program 'python' that runs it all under qemu-user. Needs no hardware, no privileges and no binfmt_misc.
#
#   scripts/emulated-board.sh [HOST_PYTHON]     into .board/, or into $LQCOMPILE_BOARD; lqcompile is in HOST_PYTHON
#
# Debian's packages come from $LQCOMPILE_DEBIAN_MIRROR where that is set. Where the board cannot be made this says why in
# one line and exits with 1, and the tests that need it skip. What is there and fits is left as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
host_python=${1:-python3}
board=$(realpath --canonicalize-missing "${LQCOMPILE_BOARD:-.board}")

release=bookworm
mirror=${LQCOMPILE_DEBIAN_MIRROR:-http://deb.debian.org}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
packages=(libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libuuid1 libsqlite3-0
  libpython3.11-minimal libpython3.11-stdlib python3.11-minimal)

fail() {
  echo "emulated-board: $1" >&2
  exit 1
}

recipe=$(cat "${BASH_SOURCE[0]}" constraints.txt lqcompile/{bundle,wheels}.py | sha256sum | cut --characters=1-64)
if [ "$(cat "$board/.ready" 2>/dev/null)" = "$recipe" ]; then
  exit 0
fi
command -v qemu-aarch64-static >/dev/null || fail "found no qemu-aarch64-static; apt-get install qemu-user-static"
command -v apt-get >/dev/null || fail "found no apt-get, expected Debian or a system that is made from it"
[ -r "$keyring" ] || fail "found no $keyring; apt-get install debian-archive-keyring"

echo "Making the emulated board in $board (about 30 seconds, once) ..."
new=$board/new
rm -rf "$new"
mkdir -p "$new"/apt/{lists/partial,cache/archives/partial,debs} "$new/root"
touch "$new/apt/status"
for part in "debian $release" "debian $release-updates" "debian-security $release-security"; do
  echo "deb [arch=arm64 signed-by=$keyring] $mirror/${part% *} ${part#* } main"
done >"$new/apt/sources.list"

# An apt of its own: the state, the sources and the architecture of this machine stay as they are.
private_apt() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= \
    -o Acquire::Languages=none -o Acquire::Retries=3 -o Dir::Etc::SourceList="$new/apt/sources.list" \
    -o Dir::Etc::SourceParts=- -o Dir::State="$new/apt" -o Dir::State::status="$new/apt/status" \
    -o Dir::Cache="$new/apt/cache" "$@"
}
private_apt update || fail "apt-get could not read $mirror"
(cd "$new/apt/debs" && private_apt download "${packages[@]}") || fail "apt-get could not download from $mirror"
for package in "$new"/apt/debs/*.deb; do
  dpkg-deb --extract "$package" "$new/root"
done
rm -rf "$new/apt" "$new"/root/usr/share/{doc,man,locale}

"$host_python" -m lqcompile bundle --target arm-cpu --python 3.11 --wheels "$board/wheels" \
  --output "$new/board.tar.gz" >/dev/null || fail "there is no device bundle"
tar --extract --file "$new/board.tar.gz" --directory "$new"

# As pip and dpkg do it when they install. The host does it quickly; a Python of another version is no help and no harm.
"$host_python" -m compileall -q "$new"/root/usr/lib/python3.11 "$new"/lqcompile-board/* >/dev/null ||
  fail "Python could not compile its library"

# -0 names this program as the interpreter, so that child processes of the device come back into the emulator.
cat >"$new/python" <<'PROGRAM'
#!/bin/sh
# Python of the emulated board. LQCOMPILE_BOARD_CPU is the CPU to emulate (qemu-aarch64-static -cpu help).
board=$(dirname "$(realpath "$0")")
exec qemu-aarch64-static -cpu "${LQCOMPILE_BOARD_CPU:-cortex-a72}" -L "$board/root" -0 "$board/python" -U LD_LIBRARY_PATH \
  -E "PYTHONHOME=$board/root/usr" "$board/root/usr/bin/python3.11" "$@"
PROGRAM
chmod +x "$new/python"
"$new/python" -c 'import ctypes, ssl, sqlite3' || fail "the emulated Python does not start"
rm -rf "$board"/{.ready,root,lqcompile-board,board.tar.gz,python}
mv "$new"/* "$board"
rmdir "$new"
echo "$recipe" >"$board/.ready"
