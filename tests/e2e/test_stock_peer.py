"""The stock client and the stock server of tests/js talk with each other, so what they say of ours can be believed."""

from functools import partial

import pytest
import trio
import trio.testing

from tests.fakes import stock_peer
from tests.fakes.stock_peer import StockPeerError, open_stock_peer, open_stock_server


async def test_a_change_of_one_side_is_seen_by_the_other() -> None:
    async with open_stock_server() as server, open_stock_peer(server.url) as peer:
        url = await server.create({"source": "1", "items": [1, 2]})
        await peer.find(url)
        await peer.change(
            url,
            stock_peer.update_text(["source"], "1 + 1"),
            stock_peer.splice(["source"], 5, 0, " # two"),
            stock_peer.insert(["items"], 1, "between"),
            stock_peer.delete(["items", 0]),
            stock_peer.put(["name"], {"$immutable": "Ada"}),
        )
        expected = {"source": "1 + 1 # two", "items": ["between", 2], "name": "Ada"}
        await server.wait_value(url, [], expected)
        heads = await server.change(url, stock_peer.put(["late"], {"$bytes": "AAE="}))
        await peer.wait_heads(url, heads)

        assert await peer.doc(url) == {**expected, "late": {"$bytes": "AAE="}}
        assert await peer.heads(url) == heads


async def test_two_clients_hear_each_other_through_the_server() -> None:
    async with open_stock_server() as server, open_stock_peer(server.url, peer_id="alice") as alice:
        url = await server.create({"n": 0})
        async with open_stock_peer(server.url, peer_id="bob") as bob:
            await alice.find(url)
            await bob.find(url)
            await alice.start_presence(url, {"cursor": 1})
            await bob.start_presence(url, {"cursor": 2})
            await alice.set_presence(url, "cursor", 7)

            await bob.wait_presence(url, "alice", "cursor", 7)
            await alice.wait_presence(url, "bob", "cursor", 2)


async def test_a_client_of_two_servers_passes_on_what_it_hears() -> None:
    """The reason why a message counts only under the peer id of its own connection."""
    async with open_stock_server() as left, open_stock_server() as right, open_stock_peer(right.url) as between:
        url = await left.create({"n": 0})
        assert await between.link(left.url) == left.peer_id
        await between.find(url)
        await left.broadcast(url, {"said": "left"})
        await between.wait_heads(url, await left.change(url, stock_peer.put(["n"], 1)))
        report = await between.report(url)

        assert report["frames"]["sent"]["ephemeral"] == 1


async def test_edits_made_offline_arrive_after_a_reconnect() -> None:
    async with open_stock_server() as server, open_stock_peer(server.url, retry_ms=50) as peer:
        url = await server.create({"source": "a"})
        await peer.find(url)
        await peer.disconnect()
        heads = await peer.change(url, stock_peer.update_text(["source"], "ab"))
        assert await server.doc(url, ["source"]) == "a"

        await peer.reconnect()
        await server.wait_heads(url, heads)
        await peer.drop()
        await peer.change(url, stock_peer.update_text(["source"], "abc"))
        await server.wait_value(url, ["source"], "abc")


async def test_a_storage_that_answers_late_changes_nothing_in_the_end() -> None:
    async with open_stock_server() as server, open_stock_peer(server.url, storage_latency_ms=40, seed=3) as peer:
        url = await server.create({"n": 0})
        await peer.find(url)
        heads = await server.change(url, stock_peer.put(["n"], 1))
        await peer.wait_heads(url, heads)

        assert await peer.doc(url) == {"n": 1}


async def test_an_event_that_overtakes_its_change_is_recorded_as_early() -> None:
    """A stock server sends a broadcast at once and the change made before it later: what the recorder is to see."""
    async with open_stock_server() as server, open_stock_peer(server.url) as peer:
        url = await server.create({"n": 0})
        await peer.record(url)
        await peer.find(url)
        for seq in (1, 2, 4):
            params = {"epoch": "e", "seq": seq, "runtime": url.removeprefix("automerge:")}
            message = {"jsonrpc": "2.0", "method": "queue_changed", "params": params}
            heads = await server.change_and_broadcast(url, [stock_peer.put(["n"], seq)], message)
            await peer.wait_heads(url, heads)
        event = await peer.wait_event(url, "queue_changed", seq=4)
        report = await peer.report(url)

        assert event["early"]
        assert (report["early"], report["early_runtime"], report["early_notebook"]) == (3, 3, 3)
        assert (report["events"], report["gaps"], report["repeats"], report["foreign"]) == (3, 1, 0, 0)
        assert [event["params"]["seq"] for event in await peer.events(url)] == [1, 2, 4]


async def test_an_event_behind_its_change_is_not_early_and_one_of_another_sender_not_taken() -> None:
    async with open_stock_server() as server, open_stock_peer(server.url) as peer:
        url = await server.create({"n": 0})
        await peer.record(url)
        await peer.find(url)
        heads = await server.change(url, stock_peer.put(["n"], 1))
        await peer.wait_heads(url, heads)
        params = {"epoch": "e", "seq": 1, "runtime": url.removeprefix("automerge:"), "heads": heads}
        message = {"jsonrpc": "2.0", "method": "queue_changed", "params": params}
        async with open_stock_peer(server.url) as stranger:
            await stranger.find(url)
            await stranger.broadcast(url, message)
            await stranger.broadcast(url, {"hello": 1})
            await server.broadcast(url, message)
            await peer.wait_event(url, "queue_changed")
        report = await peer.report(url)

        assert (report["events"], report["early"], report["unopened"]) == (1, 0, 0)
        assert report["frames"]["received"]["ephemeral"] >= 1


async def test_an_event_about_a_document_never_opened_is_told_apart() -> None:
    async with open_stock_server() as server, open_stock_peer(server.url) as peer:
        url, other = await server.create({}), await server.create({"n": 0})
        await peer.record(url)
        await peer.find(url)
        params = {
            "epoch": "e",
            "seq": 1,
            "runtime": other.removeprefix("automerge:"),
            "heads": await server.heads(other),
        }
        await server.broadcast(url, {"jsonrpc": "2.0", "method": "queue_changed", "params": params})
        await peer.wait_event(url, "queue_changed")
        report = await peer.report(url)

        assert (report["unopened"], report["early"]) == (1, 0)


async def test_a_request_is_answered_by_the_daemon_for_this_peer_alone() -> None:
    async with open_stock_server() as server, open_stock_peer(server.url) as peer:
        url = await server.create({"n": 0})
        await peer.find(url)
        response = {"jsonrpc": "2.0", "id": "r1", "to": peer.peer_id, "result": {"right": True}}
        async with open_stock_peer(server.url) as stranger, trio.open_nursery() as nursery:
            await stranger.find(url)

            async def ask() -> None:
                assert await peer.request(url, "barrier", request_id="r1") == response

            nursery.start_soon(ask)
            await stranger.broadcast(url, {**response, "result": {"right": False}})
            await server.broadcast(url, {**response, "to": "somebody else", "result": {"right": False}})
            await server.broadcast(url, response)


async def test_a_wait_that_fails_says_what_was_there_instead() -> None:
    async with open_stock_server() as server, open_stock_peer(server.url) as peer:
        url = await server.create({"n": 41})
        with pytest.raises(StockPeerError, match="41"):
            await peer.wait_value(url, ["n"], 42, within=0.05)
        with pytest.raises(StockPeerError, match="nothing is not defined"):
            await peer.wait(url, "nothing.like.it", within=0.05)
        assert await peer.wait(url, "doc.n > 40 && doc.n") == 41


async def test_a_killed_client_answers_with_an_error_and_not_with_a_hang() -> None:
    async with open_stock_server() as server, open_stock_peer(server.url) as peer:
        url = await server.create({})
        await peer.find(url)
        async with trio.open_nursery() as nursery:

            async def wait_in_vain() -> None:
                with pytest.raises(StockPeerError, match="has ended"):
                    await peer.wait_value(url, ["n"], 1)

            nursery.start_soon(wait_in_vain)
            await trio.testing.wait_all_tasks_blocked()
            peer.process.kill()
        with pytest.raises(StockPeerError, match="has ended"):
            await peer.doc(url)


async def test_a_document_that_nobody_has_is_an_error() -> None:
    async with open_stock_server() as server, open_stock_server() as other, open_stock_peer(server.url) as peer:
        with pytest.raises(StockPeerError, match="unavailable"):
            await peer.find(await other.create({}))


async def test_the_token_travels_in_the_query_and_a_refusal_is_an_error() -> None:
    requests: list[bytes] = []

    async def refuse(stream: trio.SocketStream) -> None:
        requests.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, refuse, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(StockPeerError, match="401"):
            async with open_stock_peer(f"ws://127.0.0.1:{port}/sync", "a&b"):
                pass
        nursery.cancel_scope.cancel()

    assert requests[0].startswith(b"GET /sync?token=a%26b HTTP/1.1\r\n")
