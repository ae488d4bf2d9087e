#!/bin/sh
# Write the image's file system, without Fletcher: Python and the libraries that it and the packages' binaries load.
# Usage, as root on Debian: rootfs.sh FOLDER
set -eu
root=$1

# libpython3.11-stdlib also names libraries of curses, dbm, nis and readline, which a server does not import.
packages="base-files ca-certificates libbz2-1.0 libc6 libcrypt1 libexpat1 libffi8 libgcc-s1 liblzma5 libpython3.11-minimal
  libpython3.11-stdlib libsqlite3-0 libssl3 libstdc++6 libuuid1 media-types netbase python3.11-minimal tzdata zlib1g"

mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/usr/lib64" "$root/usr/sbin" "$root/var/lib/dpkg/status.d"
for folder in bin lib lib64 sbin; do ln -s "usr/$folder" "$root/$folder"; done

debs=$(mktemp -d)
# shellcheck disable=SC2086  # one word for each package
(cd "$debs" && apt-get download -q $packages)
for deb in "$debs"/*.deb; do
  dpkg-deb -x "$deb" "$root"
  # Scanners of images read the installed packages here.
  dpkg-deb -f "$deb" > "$root/var/lib/dpkg/status.d/$(dpkg-deb -f "$deb" Package)"
done
rm -r "$debs"

# The licenses in usr/share/doc stay.
rm -rf "$root"/usr/lib/*/gconv "$root"/usr/share/ca-certificates "$root"/usr/share/i18n "$root"/usr/share/lintian \
  "$root"/usr/share/locale "$root"/usr/share/man "$root"/usr/share/zoneinfo/right "$root"/usr/sbin/*
find "$root/usr/share/doc" -type f ! -name copyright -delete
mkdir -p "$root/etc/ssl/certs" "$root/model" "$root/opt" "$root/tmp" "$root/var/cache/fletcher"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
chmod 1777 "$root/tmp"
chown 10001:10001 "$root/var/cache/fletcher"
printf 'root:x:0:0:root:/:/sbin/nologin\nfletcher:x:10001:10001::/var/cache/fletcher:/sbin/nologin\n' > "$root/etc/passwd"
printf 'root:x:0:\nfletcher:x:10001:\n' > "$root/etc/group"
ldconfig -r "$root"
