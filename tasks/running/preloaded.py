"""What a worker's process imports before its first part, while Ray starts: with it, the first request goes out at once.

pyarrow reads Parquet through its dataset module, and looks for pandas at the first array, which takes a quarter of a
second where it is installed.
"""

import pyarrow as pa
import pyarrow.dataset

import synthmill.tasks.engines.chat_server
import synthmill.tasks.running.worker

pa.array([0])
