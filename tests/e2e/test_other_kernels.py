"""A kernel that is not Python, from the kernelspec to a peer's document."""

from tests.fakes.served_daemon import ServedDaemon
from tests.fakes.thin_peer import open_thin_peer


async def test_bash_goes_the_same_way(daemon: ServedDaemon) -> None:
    async with daemon.opened(kernel_name="bash") as opened, open_thin_peer(daemon, opened) as peer:
        echo = peer.add_cell("echo one\necho two >&2\necho")
        assert await peer.run(echo) == "done"
        outputs = await peer.outputs(echo)
        assert "".join(output["text"] for output in outputs) == "one\ntwo\n\n"
        assert peer.read("kernel", "name") == "bash"
        assert peer.read("kernel", "language") == "bash"

        failing = peer.add_cell("echo before; ls /no-such-place; (exit 3)")
        assert await peer.run(failing) == "error"
        assert "before\n" in "".join(output.get("text", "") for output in await peer.outputs(failing))

        # An error ends its own cell alone, and the kernel's state goes on.
        assert await peer.run(peer.add_cell("answer=42")) == "done"
        shown = await peer.show("echo $answer")
        assert [(output["name"], output["text"]) for output in shown] == [("stdout", "42\n")]


async def test_bash_is_interrupted(daemon: ServedDaemon) -> None:
    async with daemon.opened(kernel_name="bash") as opened, open_thin_peer(daemon, opened) as peer:
        endless = peer.add_cell("echo begun; sleep 100")
        execution_id = await peer.execute(endless)
        await peer.wait(lambda: peer.manifests(endless))
        answer = await peer.request("interrupt")
        assert answer["execution_id"] == execution_id
        assert await peer.done(execution_id) == "interrupted"
        assert (await peer.show("echo alive"))[0]["text"] == "alive\n"
