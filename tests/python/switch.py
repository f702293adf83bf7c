"""A switch whose links are slow, for machines whose kernel has no netem.

    switch.py RATE_BITS_PER_SECOND DELAY_SECONDS NAMESPACE...

makes a tap device `eth0` in every network namespace and says `ready`. A frame takes its time on its sender's link, one after the
other, and arrives DELAY later where its address is. Ends with its standard input.
"""

import ctypes
import fcntl
import heapq
import os
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CLONE_NEWNET = 0x40000000
# What waits for a link; more is dropped, as by any switch.
MOST_QUEUED_BYTES = 4 << 20
MOST_FRAME_BYTES = 65_535


def tap(namespace):
    """A new `eth0` in a namespace, as a file."""
    with open(f"/run/netns/{namespace}") as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI))
    return device


def main():
    rate, delay = float(sys.argv[1]), float(sys.argv[2])
    ports = [tap(namespace) for namespace in sys.argv[3:]]
    print("ready", flush=True)
    places = {}  # by hardware address
    free_at = dict.fromkeys(ports, 0.0)
    queued = dict.fromkeys(ports, 0)
    under_way = []  # (when it arrives, a number, sender, bytes, receivers, frame)
    number = 0
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        readable, _, _ = select.select([0, *ports], [], [], wait)
        if 0 in readable and not os.read(0, 1):
            return
        now = time.monotonic()
        for port in readable:
            if port == 0:
                continue
            try:
                frame = os.read(port, MOST_FRAME_BYTES)
            except (BlockingIOError, OSError):
                continue
            places[frame[6:12]] = port
            if queued[port] + len(frame) > MOST_QUEUED_BYTES:
                continue
            free_at[port] = max(now, free_at[port]) + len(frame) * 8 / rate
            queued[port] += len(frame)
            known = places.get(frame[0:6])
            to = [known] if known is not None else [other for other in ports if other != port]
            number += 1
            heapq.heappush(under_way, (free_at[port] + delay, number, port, len(frame), to, frame))
        now = time.monotonic()
        while under_way and under_way[0][0] <= now:
            _, _, sender, length, receivers, frame = heapq.heappop(under_way)
            queued[sender] -= length
            for receiver in receivers:
                try:
                    os.write(receiver, frame)
                except OSError:
                    pass  # its device is down, or full: the frame is lost


main()
