#!/bin/sh
# A Chromium for the tests of reports: nothing to do where there is one, else Debian's or Ubuntu's.
set -eu
for name in "${CNSDIFF_CHROMIUM:-}" chromium chromium-browser google-chrome chrome; do
  if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1; then
    exit 0
  fi
done
give_up() {
  echo "tests/install-browser.sh: $1; install Chromium or Google Chrome, or name one that is there: export CNSDIFF_CHROMIUM=/path/to/chromium" >&2
  exit 1
}
command -v apt-get >/dev/null 2>&1 || give_up "there is no Chromium and no apt-get"
if [ "$(id -u)" = 0 ]; then
  as_root=
elif command -v sudo >/dev/null 2>&1; then
  as_root=sudo
else
  give_up "there is no Chromium, and installing one needs root or sudo"
fi
$as_root apt-get update -qq || give_up "apt-get update failed"
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null || give_up "apt-get could not install chromium"
command -v chromium >/dev/null 2>&1 || give_up "the package chromium of this system brings no such command"
