#!/bin/sh
# Install the packages for headless rendering, EGL and a software driver, or print their names without root.
set -u
packages="libegl1 libgl1-mesa-dri"
[ "$(uname -s)" = Linux ] || exit 0
missing=""
for package in $packages; do
  dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  if apt-get -qq update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y $missing >/dev/null; then
    echo "installed:$missing"
    exit 0
  fi
fi
echo "headless rendering needs these system packages:$missing (Debian names; sudo apt-get install$missing)"
