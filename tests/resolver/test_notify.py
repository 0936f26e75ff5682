"""Notices: sent at a change, signed, asked again until answered, never for an old version."""

import asyncio
import socket

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.tsig

from resolver.notify import Notifier, Target

ZONE = (b"cdn", b"example")
KEY = dns.tsig.Key("secondary.", b"k" * 32)
WAIT_S = 5.0


def secondary() -> socket.socket:
    heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.bind(("127.0.0.1", 0))
    heard.settimeout(WAIT_S)
    return heard


def notifier(
    at: socket.socket, key: dns.tsig.Key | None = None, waits_s: tuple[float, ...] = (0.2,) * 5
) -> Notifier:
    host, port = at.getsockname()
    return Notifier([Target(host, port, key)], 0.0, waits_s)


async def heard_by(at: socket.socket) -> tuple[bytes, tuple[str, int]]:
    found: tuple[bytes, tuple[str, int]] = await asyncio.to_thread(at.recvfrom, 4_096)
    return found


async def test_a_notice_is_repeated_until_it_is_answered_and_signed() -> None:
    with secondary() as at:
        told = notifier(at, KEY)
        running = asyncio.create_task(told.run())
        told.offer([(ZONE, 7)])
        first, _ = await heard_by(at)
        again, client = await heard_by(at)
        notice = dns.message.from_wire(again, keyring=KEY)
        assert notice.had_tsig
        assert notice.opcode() == dns.opcode.NOTIFY
        assert notice.flags & dns.flags.AA
        assert str(notice.question[0].name) == "cdn.example."
        assert first[:2] != again[:2], "each notice has its own id"
        at.sendto(dns.message.make_response(notice).to_wire(), client)
        (task,) = told._tasks.values()
        await asyncio.wait_for(task, WAIT_S)
        running.cancel()


async def test_unsigned_answers_to_a_signed_notice_do_not_count() -> None:
    with secondary() as at:
        told = notifier(at, KEY)
        told.offer([(ZONE, 7)])
        wire, client = await heard_by(at)
        notice = dns.message.from_wire(wire, keyring=False)
        forged = dns.message.make_query("cdn.example.", "SOA", id=notice.id)
        forged.set_opcode(dns.opcode.NOTIFY)
        forged.flags |= dns.flags.QR
        at.sendto(forged.to_wire(), client)
        assert await heard_by(at)  # asked again
        (task,) = told._tasks.values()
        task.cancel()


async def test_only_newer_versions_are_announced() -> None:
    with secondary() as at:
        told = notifier(at)
        told.offer([(ZONE, 7)])
        (task,) = told._tasks.values()
        told.offer([(ZONE, 7)])
        told.offer([(ZONE, 6)])
        assert list(told._tasks.values()) == [task]
        told.offer([(ZONE, 8)])
        (newer,) = told._tasks.values()
        assert newer is not task
        await asyncio.wait([task])
        assert task.cancelled()
        newer.cancel()


async def test_who_never_answers_is_given_up() -> None:
    with secondary() as at:
        told = notifier(at, waits_s=(0.01, 0.02))
        told.offer([(ZONE, 7)])
        (task,) = told._tasks.values()
        await asyncio.wait_for(task, WAIT_S)
        heard = [await heard_by(at), await heard_by(at)]
        assert len(heard) == 2
