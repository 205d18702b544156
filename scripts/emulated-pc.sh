#!/usr/bin/env bash
# Get Bochs, an emulator of PCs, for the tests of kernels that this machine's processor cannot run: AVX-512 and AMX. It is
# Debian's, with its libraries beside it, and needs no privileges.
#
#   scripts/emulated-pc.sh     into .pc/, or into $LQCOMPILE_PC
#
# Debian's packages come from $LQCOMPILE_DEBIAN_MIRROR where that is set. Where Bochs cannot be had this says why in one
# line and exits with 1, and the tests that need it skip. What is there and fits is left as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
pc=$(realpath --canonicalize-missing "${LQCOMPILE_PC:-.pc}")

# The first release whose Bochs has Sapphire Rapids.
release=trixie
mirror=${LQCOMPILE_DEBIAN_MIRROR:-http://deb.debian.org}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
packages=(bochs bochsbios vgabios bochs-term)

fail() {
  echo "emulated-pc: $1" >&2
  exit 1
}

recipe=$(sha256sum <"${BASH_SOURCE[0]}" | cut --characters=1-64)
if [ "$(cat "$pc/.ready" 2>/dev/null)" = "$recipe" ]; then
  exit 0
fi
[ "$(uname -sm)" = "Linux x86_64" ] || fail "found $(uname -sm), expected Linux x86_64"
command -v apt-get >/dev/null || fail "found no apt-get, expected Debian or a system that is made from it"
[ -r "$keyring" ] || fail "found no $keyring; apt-get install debian-archive-keyring"

echo "Making the emulated PC in $pc (about 30 seconds, once) ..."
new=$pc/new
rm -rf "$new"
mkdir -p "$new"/apt/{lists/partial,archives/partial} "$new/root"
touch "$new/apt/status"
echo "deb [arch=amd64 signed-by=$keyring] $mirror/debian $release main" >"$new/apt/sources.list"

# An apt of its own: the state and the sources of this machine stay as they are.
private_apt() {
  apt-get -qq -o APT::Sandbox::User= -o APT::Install-Recommends=false \
    -o Acquire::Languages=none -o Acquire::Retries=3 -o Dir::Etc::SourceList="$new/apt/sources.list" \
    -o Dir::Etc::SourceParts=- -o Dir::State="$new/apt" -o Dir::State::status="$new/apt/status" \
    -o Dir::Cache="$new/apt" "$@"
}
private_apt update || fail "apt-get could not read $mirror"
private_apt install --download-only --yes "${packages[@]}" >/dev/null || fail "apt-get could not download from $mirror"
for package in "$new"/apt/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar --extract --directory "$new/root" --wildcards --no-anchored \
    '*.so*' 'share/bochs/*' 'share/vgabios/*' 'bin/bochs-bin' 2>/dev/null || true # a package may have none of them
done
libraries=$new/root/usr/lib/x86_64-linux-gnu
"$libraries/ld-linux-x86-64.so.2" --library-path "$libraries:$libraries/pulseaudio" --list "$new/root/usr/bin/bochs-bin" \
  >/dev/null || fail "a library of Bochs is missing"
rm -rf "$new/apt" "$pc"/{.ready,root}
mv "$new/root" "$pc"
rmdir "$new"
echo "$recipe" >"$pc/.ready"
