"""Send Arrow record batches to a running server and read the same rows back with a column `vector`.

fletcher-serve run ARTIFACT
python examples/flight_client.py [grpc://127.0.0.1:8815]
"""

from __future__ import annotations

import json
import sys
import threading

import pyarrow as pa
import pyarrow.flight as flight

ROWS, ROWS_PER_BATCH = 1000, 250


def main() -> None:
    """Stream a thousand rows; write on one thread while another one reads."""
    location = sys.argv[1] if len(sys.argv) > 1 else "grpc://127.0.0.1:8815"
    options = json.dumps({"input_type": "document"}).encode()
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with flight.connect(location) as client:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(options))

        def write() -> None:
            writer.begin(schema)
            for start in range(0, ROWS, ROWS_PER_BATCH):
                ids = list(range(start, start + ROWS_PER_BATCH))
                texts = [f"document number {number}" for number in ids]
                writer.write_batch(pa.record_batch({"id": ids, "text": texts}, schema=schema))
            writer.done_writing()

        thread = threading.Thread(target=write)
        thread.start()
        with writer:
            table = reader.read_all()
            thread.join()
    print(f"{table.num_rows} rows; {table.schema.field('vector').type}")


if __name__ == "__main__":
    main()
