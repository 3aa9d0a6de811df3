#!/bin/sh
# Installs the packages named, after the upgrades of what is there (security fixes), from the base's
# own sources or from the secret apt_mirror. Neither the mirror, nor extra certificates, nor package
# lists stay behind. COMPONENTS adds e.g. non-free; WITHOUT, patterns of paths, is not unpacked.
set -euf
export DEBIAN_FRONTEND=noninteractive
sources=/dev/shm/apt-sources
rm -rf "$sources"
mkdir -p "$sources"
mirror=
if [ -s /run/secrets/apt_mirror ]; then mirror=$(cat /run/secrets/apt_mirror); fi
mirror=${mirror%/}
mirrored() {
    if [ -z "$mirror" ]; then
        cat
        return
    fi
    sed -e "s#https*://[^ ]*/debian-security#$mirror-security#" \
        -e "s#https*://[^ ]*/debian\([ /]\|\$\)#$mirror\1#"
}
for file in $(find /etc/apt/sources.list /etc/apt/sources.list.d -type f -size +0 2>/dev/null); do
    sed -e "/^Components:/s/main.*/main ${COMPONENTS:-}/" \
        -e "/^deb /s/ main.*/ main ${COMPONENTS:-}/" "$file" \
        | mirrored > "$sources/$(basename "$file")"
done
# unsafe-io: what is not finished is no layer, so that dpkg need not wait for the disk.
options="-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$sources -o Acquire::Retries=5
    -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io -qq -y --no-install-recommends"
for pattern in ${WITHOUT:-}; do options="$options -o Dpkg::Options::=--path-exclude=$pattern"; done
if [ -s /run/secrets/extra_ca ]; then
    options="$options -o Acquire::https::CAInfo=/run/secrets/extra_ca"
fi
# Word splitting of $options is meant.
# shellcheck disable=SC2086
{
    apt-get $options update
    apt-get $options upgrade
    apt-get $options install "$@"
}
apt-get clean
set +f
rm -rf "$sources" /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log \
    /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
