#!/usr/bin/env bash
# Make a Bochs whose AMX products are right, for the tests of AMX kernels: Debian's source with scripts/bochs.patch. It has
# no screen and no debugger, so that it runs the other processors faster too. It needs the emulated PC (emulated-pc.sh) and
# a C++ compiler, and no privileges.
#
#   scripts/emulated-pc-amx.sh     into .pc/amx/, or into $LQCOMPILE_PC/amx
#
# Where Bochs cannot be made this says why in one line and exits with 1, and the tests that need it skip.
set -euo pipefail
cd "$(dirname "$0")/.."
pc=$(realpath --canonicalize-missing "${LQCOMPILE_PC:-.pc}")

release=trixie
mirror=${LQCOMPILE_DEBIAN_MIRROR:-http://deb.debian.org}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
helper=/usr/lib/apt/apt-helper
patch=$PWD/scripts/bochs.patch

fail() {
  echo "emulated-pc-amx: $1" >&2
  exit 1
}

recipe=$(cat "${BASH_SOURCE[0]}" "$patch" | sha256sum | cut --characters=1-64)
if [ "$(cat "$pc/amx/.ready" 2>/dev/null)" = "$recipe" ]; then
  exit 0
fi
[ -e "$pc/.ready" ] || fail "found no emulated PC in $pc, which this adds to; make pc"
for tool in g++ make patch; do
  command -v "$tool" >/dev/null || fail "found no $tool; apt-get install g++ make patch"
done
[ -x "$helper" ] || fail "found no $helper, expected Debian or a system that is made from it"
[ -r "$keyring" ] || fail "found no $keyring; apt-get install debian-archive-keyring"

echo "Making Bochs in $pc/amx (some minutes, once) ..."
rm -rf "$pc/amx"
new=$pc/amx/new
mkdir -p "$new"/apt/{lists/partial,archives/partial} "$new/source"
touch "$new/apt/status"
echo "deb-src [signed-by=$keyring] $mirror/debian $release main" >"$new/apt/sources.list"
cd "$new"

# An apt of its own: the state and the sources of this machine stay as they are.
private_apt() {
  apt-get -qq -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Retries=3 \
    -o Dir::Etc::SourceList="$new/apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State="$new/apt" \
    -o Dir::State::status="$new/apt/status" -o Dir::Cache="$new/apt" "$@"
}
private_apt update || fail "apt-get could not read $mirror"
# Lines are: 'address' file bytes SHA256:sum; what Debian adds to the source is not needed.
read -r address archive _ sum < <(private_apt --print-uris --only-source source bochs | grep -F .orig.tar.) ||
  fail "$mirror has no source of bochs"
"$helper" -o APT::Sandbox::User= download-file "${address//\'/}" "$new/$archive" "$sum" >/dev/null || fail "could not download ${address//\'/}"
tar --extract --file "$archive" --directory source --strip-components 1
cd source
patch --quiet --strip 1 <"$patch" || fail "scripts/bochs.patch does not fit $archive"
{
  ./configure --quiet --with-nogui --disable-docbook --disable-plugins --disable-voodoo --enable-cpu-level=6 \
    --enable-x86-64 --enable-avx --enable-evex --enable-amx --enable-vmx=2 --enable-protection-keys --enable-cet \
    --enable-uintr --enable-memtype --enable-repeat-speedups --enable-handlers-chaining --enable-trace-linking \
    CFLAGS=-O1 CXXFLAGS=-O1 && make --jobs="$(nproc)" bochs
} >"$pc/amx/log" 2>&1 || fail "the build failed; $pc/amx/log says why"
strip --strip-all -o "$pc/amx/bochs" bochs
rm -rf "$new" "$pc/amx/log"
echo "$recipe" >"$pc/amx/.ready"
