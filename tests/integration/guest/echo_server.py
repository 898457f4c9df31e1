"""Run as a program: gives back what it is sent, one connection after the other. Arguments: the ports."""

import socket
import sys
import threading


def serve(port: int, ready: threading.Barrier) -> None:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("0.0.0.0", port))
    server.listen(50)
    ready.wait()
    while True:
        client, _ = server.accept()
        threading.Thread(target=echo, args=(client,), daemon=True).start()


def echo(client: socket.socket) -> None:
    with client:
        while data := client.recv(100):
            client.sendall(data)


ports = [int(text) for text in sys.argv[1:]]
barrier = threading.Barrier(len(ports) + 1)
threads = [threading.Thread(target=serve, args=(port, barrier)) for port in ports]
for thread in threads:
    thread.start()
barrier.wait()
print("ready", flush=True)
