#!/usr/bin/env bash
# numpy, structured arrays: joining tables gives back other bytes than went in.
#
# A table whose fields are stored most significant byte first (so that its records sort and compare as plain bytes, as an
# index on the disk wants them) keeps that order through slicing, copying, sorting and indexing. np.concatenate does not
# keep it: the joined table has the same field names and the same values, its bytes are in the machine's own order, and
# nothing is said. It happens with a single table as well. Values compare equal before and after, so tests on values
# pass; what is written to a file with tobytes() cannot be read back with the dtype that every input had.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "numpy==2.3.5"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np

print("numpy", np.__version__)
record = np.dtype([("key", ">u8"), ("length", "<u4")])
table = np.zeros(3, record)
table["key"] = [1, 2, 3]
joined = np.concatenate([table])
print("dtype of the input ", table.dtype, "kept by sorting:", np.sort(table, order="key").dtype == record)
print("dtype of the joined", joined.dtype)
print("values equal:", bool((joined["key"] == table["key"]).all()), " bytes equal:", joined.tobytes() == table.tobytes())
read_back = np.frombuffer(joined.tobytes(), record)["key"].tolist()
print("read back with the dtype of the input:", read_back)
unchanged = joined.tobytes() != table.tobytes() and read_back == [1 << 56, 2 << 56, 3 << 56]
sys.exit(0 if unchanged or sys.byteorder == "big" else "numpy's behaviour has changed: joined records keep their byte order")
PYTHON
