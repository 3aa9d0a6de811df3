#!/bin/sh
# Installs the packages named, after the upgrades of what is there (security fixes), from the base's
# own sources or from the secret apt_mirror. Neither the mirror, nor extra certificates, nor package
# lists stay behind. COMPONENTS adds e.g. non-free.
set -eu
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
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    [ -s "$file" ] || continue
    sed -e "/^Components:/s/main.*/main ${COMPONENTS:-}/" \
        -e "/^deb /s/ main.*/ main ${COMPONENTS:-}/" "$file" \
        | mirrored > "$sources/$(basename "$file")"
done
options="-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$sources -o Acquire::Retries=5
    -o Dpkg::Use-Pty=0 -qq -y --no-install-recommends"
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
rm -rf "$sources" /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log \
    /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
