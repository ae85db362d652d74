#!/bin/sh
# Lays out what the Debian packages are built of: the sources, with debian/ at the top as dpkg wants it, the library's package named after its
# soname, and a changelog of the one version there is.
#   tree.sh DIRECTORY VERSION        from the sources' directory; SOURCE_DATE_EPOCH: the changelog's date, else the last commit's, else now
set -eu
tree=$1 version=$2
minor=${version%.*}
mkdir -p "$tree/models" "$tree/.github"
cp -R Makefile LICENSE README.md core server etc "$tree"
cp .github/CHANGELOG.md "$tree/.github"
cp -R models/cli models/stories "$tree/models"
cp -R etc/debian "$tree/debian"
mv "$tree/debian/libdeq.install" "$tree/debian/libdeq$minor.install"
sed -i "/^#/d; s/@MINOR@/$minor/g" "$tree/debian/control"
author=$(sed -n 's/^Maintainer: //p' etc/debian/control)
date=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
cat >"$tree/debian/changelog" <<END
deqd ($version) unstable; urgency=medium

  * Version $version.

 -- $author  $(LC_ALL=C date -u -R -d "@$date")
END
