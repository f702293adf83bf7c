#!/bin/sh
# Makes the package of a function of AWS Lambda (runtime provided.al2023): `onward`, what starts it, and the cluster's certificates.
#
#   cargo lambda build --release --bin onward --lambda-dir target/lambda
#   deploy/lambda/build.sh target/lambda/onward/bootstrap onward.zip ./cluster
#
# The binary is one for Amazon Linux 2023. Needs zip and binutils.
set -eu

# Of Amazon Linux 2023.
newest_libc=2.34
# What Lambda takes, unpacked.
most_bytes=262144000

usage() {
    echo "usage: $0 BINARY OUT.zip [CLUSTER_DIR]" >&2
    exit 2
}

[ $# -eq 2 ] || [ $# -eq 3 ] || usage
binary=$1 out=$2 cluster=${3:-}
[ -f "$binary" ] || { echo "$binary: no such file" >&2; exit 1; }

libc=$(readelf -W --dyn-syms "$binary" | grep -o 'GLIBC_[0-9.]*' | cut -d_ -f2 | sort -uV | tail -n 1)
if [ "$(printf '%s\n%s\n' "${libc:-0}" "$newest_libc" | sort -V | tail -n 1)" != "$newest_libc" ]; then
    echo "$binary needs glibc $libc, and Amazon Linux 2023 has $newest_libc: build it with cargo lambda, or make an image" >&2
    exit 1
fi

here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp "$here/bootstrap" "$dir/bootstrap"
strip -o "$dir/onward" "$binary"
chmod 755 "$dir/bootstrap" "$dir/onward"
if [ -n "$cluster" ]; then
    mkdir "$dir/cluster"
    # Not ca.key: who has it makes hosts. The function runs as another user than the one who unpacks.
    for name in ca.pem host.pem host.key; do
        cp "$cluster/$name" "$dir/cluster/$name"
        chmod 644 "$dir/cluster/$name"
    done
    chmod 755 "$dir/cluster"
fi

bytes=$(du -sb "$dir" | cut -f1)
if [ "$bytes" -gt "$most_bytes" ]; then
    echo "it is $bytes bytes unpacked, and Lambda takes $most_bytes: make an image" >&2
    exit 1
fi
packed=$dir/packed.zip
(cd "$dir" && zip --quiet --recurse-paths -X packed.zip . --exclude packed.zip)
mv "$packed" "$out"
echo "$out: $(wc -c < "$out") bytes, $bytes unpacked"
