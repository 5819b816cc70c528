"""The transport survives being stopped while connections begin: some versions of grpcio end the process then (docs/adr/0002)."""

from __future__ import annotations

import subprocess
import sys

CYCLES = 600

PROGRAM = """
import asyncio, gc, socket, sys
import grpc

HELLO = b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + b"\\0\\0\\0\\4\\0\\0\\0\\0\\0"

async def cycle(number):
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
    for connection in connections:
        connection.sendall(HELLO)
    await asyncio.sleep(0.0002 * (number % 8))  # the stop meets every moment of a connection's beginning
    await server.stop(None)
    for connection in connections:
        connection.close()

for number in range(int(sys.argv[1])):
    asyncio.run(cycle(number))
    if number % 50 == 0:
        gc.collect()
print("survived")
"""


def test_a_stop_among_connections_that_begin_does_not_end_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM, str(CYCLES)], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr[-2000:]
