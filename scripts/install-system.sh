#!/usr/bin/env bash
# Install the Debian packages that some tests and the training example use. Where that is not possible it says so and
# goes on: the tests that need a package skip with a reason.
set -euo pipefail

packages=(chromium dataset-fashion-mnist qemu-user-static)

missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo --non-interactive)
fi
if ! command -v apt-get >/dev/null; then
  echo "install-system: no apt-get here; skipped ${missing[*]} (tests that need them skip)"
elif [ "$(id -u)" -ne 0 ] && ! "${as_root[@]}" true 2>/dev/null; then
  echo "install-system: needs root; skipped ${missing[*]} (run: sudo apt-get install ${missing[*]})"
elif "${as_root[@]}" apt-get update -qq && "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
  echo "install-system: installed ${missing[*]}"
else
  echo "install-system: apt-get failed; skipped ${missing[*]} (tests that need them skip)"
fi
