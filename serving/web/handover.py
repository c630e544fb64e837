"""Leaving a shared port without resetting those who are just connecting.

Where several sockets listen on one port (SO_REUSEPORT), Linux gives each new connection to one of them at its first
packet. Closing that socket resets whoever stands in its queue or amid the handshake. So it first turns a deaf ear to
first packets (a filter of the socket's own, which needs no privilege), while handshakes under way end and are
accepted; a client whose first packet was dropped sends it again after a second, to a socket that still listens.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys

HANDSHAKE_S = 0.3  # that one under way may take: once around the world

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python's socket module doesn't name it
_FLAGS, _SYN = 13, 0x02  # where a TCP header has its flags; the one that only first packets bear
_INSTRUCTIONS = (  # code, jump if true, jump if false, operand: Linux, Documentation/networking/filter.rst
    (0x30, 0, 0, _FLAGS),  # load a byte
    (0x45, 0, 1, _SYN),  # is that bit set?
    (0x06, 0, 0, 0),  # then drop
    (0x06, 0, 0, 0xFFFFFFFF),  # else keep all of it
)


def stop_greeting(listening: socket.socket) -> None:
    """Let no new handshake begin on it; elsewhere than on Linux, which alone shares a port this way, do nothing.

    Raises
    ------
    OSError : the kernel refuses the filter.
    """
    if not sys.platform.startswith("linux"):
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in _INSTRUCTIONS))
    program = struct.pack("@HP", len(_INSTRUCTIONS), ctypes.addressof(code))
    listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
