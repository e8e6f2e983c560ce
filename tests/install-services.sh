#!/bin/sh
# What tests need beside Python: a Chromium for reports, and PostgreSQL for the store of a service.
# Nothing to do where both are there, else Debian's or Ubuntu's packages.
set -eu
packages=
lacks() {
  for name in "$@"; do
    if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1; then
      return 1
    fi
  done
}
lacks_postgresql() {
  lacks postgres && lacks /usr/lib/postgresql/*/bin/postgres
}
if lacks "${CNSDIFF_CHROMIUM:-}" chromium chromium-browser google-chrome chrome; then
  packages=chromium
fi
if lacks_postgresql; then
  packages="$packages postgresql"
fi
[ -n "$packages" ] || exit 0
give_up() {
  echo "tests/install-services.sh: $1; install Chromium or Google Chrome, or name one that is there: export CNSDIFF_CHROMIUM=/path/to/chromium; and PostgreSQL, so that postgres is on the PATH" >&2
  exit 1
}
command -v apt-get >/dev/null 2>&1 || give_up "lacks $packages, and there is no apt-get"
if [ "$(id -u)" = 0 ]; then
  as_root=
elif command -v sudo >/dev/null 2>&1; then
  as_root=sudo
else
  give_up "lacks $packages, and installing needs root or sudo"
fi
install() {
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || give_up "apt-get could not install $*"
}
$as_root apt-get update -qq || give_up "apt-get update failed"
case $packages in *postgresql*)
  # Tests start a server of their own; the package would make and start another one.
  install postgresql-common
  $as_root sed -i 's/^#\? *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf ;;
esac
# shellcheck disable=SC2086
install $packages
if lacks "${CNSDIFF_CHROMIUM:-}" chromium chromium-browser google-chrome chrome; then
  give_up "the package chromium of this system brings no such command"
fi
if lacks_postgresql; then
  give_up "the package postgresql of this system brings no server"
fi
