"""WebSockets of the soak: what is sent in both directions, and how they end."""

import asyncio
import contextlib
import hashlib
import random
import socket
import struct

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

# How a tunnel ends, and how often.
KINDS = {
    "echo": 10,  # The client ends its side; the backend says what came, and ends the other.
    "idle": 4,  # The same, after a while without a byte.
    "backend ends": 4,  # The backend does it first.
    "client resets": 3,
    "backend resets": 3,
}


class Tunnel:
    """One WebSocket: everything about it follows from its seed. The proxy doesn't look at its bytes."""

    def __init__(self, seed):
        pick = random.Random(seed)
        self.seed = seed
        self.kind = pick.choices(list(KINDS), list(KINDS.values()))[0]
        sizes = [pick.choice([1, 200, 5_000, 70_000, 300_000]) for _ in range(pick.randint(1, 6))]
        self.messages = [pick.randbytes(size) for size in sizes]
        self.content = b"".join(self.messages)
        self.pause = pick.uniform(2, 8) if self.kind == "idle" else pick.uniform(0, 0.05)

    def farewell(self):
        return hashlib.sha256(self.content).hexdigest().encode()


def reset(writer):
    option = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
    writer.transport.abort()


async def serve(tunnel, reader, writer, complain):
    """The backend's side, behind the request's head: sends back what comes."""
    writer.write(SWITCH)
    await writer.drain()
    received = 0
    while received < len(tunnel.content) or tunnel.kind != "backend ends":
        try:
            piece = await reader.read(1 << 16)
        except OSError:
            piece = b""
            if tunnel.kind != "client resets":
                raise
        if not piece:
            break
        if piece != tunnel.content[received : received + len(piece)]:
            complain(f"{tunnel.seed}: {tunnel.kind}: other bytes arrived")
            return
        received += len(piece)
        if tunnel.kind == "backend resets":
            reset(writer)
            return
        writer.write(piece)
        await writer.drain()
    if tunnel.kind == "client resets":
        return
    if received != len(tunnel.content):
        complain(f"{tunnel.seed}: {tunnel.kind}: {received} bytes arrived")
    writer.write(tunnel.farewell())
    await writer.drain()


async def run(tunnel, port, authorization):
    """The client's side. Gives what is wrong, if anything."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        writer.write(
            b"GET /v1/realtime?model=m HTTP/1.1\r\nhost: proxy.test\r\nauthorization: %s\r\n"
            b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-seed: %d\r\n\r\n"
            % (authorization.encode(), tunnel.seed)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if head != SWITCH:
            return f"not switched: {head[:200]!r}"
        sending = asyncio.ensure_future(send(tunnel, writer))
        try:
            return await receive(tunnel, reader, writer)
        finally:
            sending.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await sending
    finally:
        writer.close()


async def send(tunnel, writer):
    for message in tunnel.messages:
        await asyncio.sleep(tunnel.pause)
        writer.write(message)
        await writer.drain()
    if tunnel.kind in ("echo", "idle"):
        writer.write_eof()


async def receive(tunnel, reader, writer):
    expected = tunnel.content + tunnel.farewell()
    received = bytearray()
    is_whole = tunnel.kind in ("echo", "idle", "backend ends")
    try:
        while piece := await reader.read(1 << 16):
            received += piece
            if tunnel.kind == "client resets":
                reset(writer)
                return None
    except OSError:
        if is_whole:
            return "reset"
    if not expected.startswith(bytes(received)):
        return "other bytes"
    if is_whole and len(received) != len(expected):
        return f"{len(received)} bytes of {len(expected)}"
    return None
