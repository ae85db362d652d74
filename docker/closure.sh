#!/bin/sh
# Fills the image's root: what serves of our own Debian packages, the shared libraries that their programs need (what ldd names, and no more), a
# user, certificates of authorities for `deq bench serve https://...`, and for every Debian package that a file came from its licence and its
# record, where scanners for known holes look for it. Runs in the build stage, from the sources' directory.
#   closure.sh ROOT SECONDS PACKAGE...       SECONDS since 1970: the time of every file
set -eu
root=$1 time=$2
shift 2
triplet=$(gcc -print-multiarch)

# /lib and /lib64 are links into /usr, as on Debian: the loader's path is /lib64/ld-linux-x86-64.so.2
mkdir -p "$root/usr/lib/$triplet" "$root/usr/lib64" "$root/etc/ssl/certs" "$root/etc/deqd" "$root/models" \
    "$root/var/lib/dpkg/status.d"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"

# no units, no man pages, no directories for keys; the configuration is docker/deqd.yaml
for file; do
    dpkg-deb --fsys-tarfile "$file" | tar -xf - -C "$root" --exclude='./etc' --exclude='./lib' --exclude='./var' --exclude='./usr/share/man' \
        --exclude='./usr/share/lintian' --exclude='./usr/share/doc/*/[!c]*' --exclude='./usr/share/doc/*/changelog*'
    dpkg-deb --field "$file" >"$root/var/lib/dpkg/status.d/$(dpkg-deb --field "$file" Package)"
done

needed=$(ldd "$root"/usr/bin/* | sed -nE 's/^[^/]*(\/[^ ]+) \(0x.*/\1/p' | grep -v ':$' | sort -u)
for file in $needed; do
    case $file in
    /lib64/* | /usr/lib64/*) to=usr/lib64 ;;
    *) to=usr/lib/$triplet ;; # also of libraries that Debian keeps in a directory of alternatives
    esac
    cp -L "$file" "$root/$to/"
done

cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
for file in $needed /etc/ssl/certs/ca-certificates.crt; do
    real=$(readlink -f "$file")
    # dpkg knows a file by the path that its package gives, with or without /usr
    dpkg -S "$real" 2>/dev/null || dpkg -S "${real#/usr}" 2>/dev/null || [ "$file" = /etc/ssl/certs/ca-certificates.crt ] || { echo "closure.sh: $file is of no package" >&2; exit 1; }
done | sed 's/: .*//' >/tmp/packages
echo ca-certificates >>/tmp/packages
for package in $(sort -u /tmp/packages); do
    name=${package%%:*}
    dpkg-query -s "$package" >"$root/var/lib/dpkg/status.d/$name"
    mkdir -p "$root/usr/share/doc/$name"
    cp -L "/usr/share/doc/$name/copyright" "$root/usr/share/doc/$name/"
done

echo 'deqd:x:65532:65532:deqd:/:/nonexistent' >"$root/etc/passwd"
echo 'deqd:x:65532:' >"$root/etc/group"
cp -L /etc/nsswitch.conf /etc/os-release "$root/etc/"
cp docker/deqd.yaml "$root/etc/deqd/"

# readable by any user, writable by none that runs it
find "$root" -type d -exec chmod 755 {} +
find "$root" -type f -exec chmod 644 {} +
chmod 755 "$root"/usr/bin/* "$root"/usr/lib64/ld-*
find "$root" -exec touch -h -d "@$time" {} +
