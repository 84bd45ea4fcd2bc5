"""What a worker's process imports before its first part, while Ray starts: with it, the first request goes out at once.

pyarrow reads Parquet through its dataset module, and looks for pandas at the first array, which takes a quarter of a
second where it is installed.
"""

from importlib import import_module

import pyarrow as pa

for module in ("pyarrow.dataset", "synthmill.tasks.engines.chat_server", "synthmill.tasks.running.worker"):
    import_module(module)
pa.array([0])
