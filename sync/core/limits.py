"""Bounds on what may come from outside, each with its reason.

Whoever refuses something for one of these answers with an error; nothing hangs and nothing grows without end. The
numbers that peers can meet are in docs/wire.md.
"""

MIB = 1024 * 1024

# --- A frame and what is in it

# A whole notebook with its history fits many times; a peer can make the daemon hold one such frame, no more.
MAX_FRAME_BYTES = 16 * MIB

# Join, peer and error frames: a stock join has 150 bytes, and its metadata is kept as long as the peer.
MAX_CONTROL_FRAME_BYTES = 64 * 1024

# Peer, session and document ids: stock clients' have 4 to 60 characters. They are in every frame and in every log line.
MAX_ID_CHARS = 200

# A frame's type, a protocol version and a method's name: the longest in use has 26 characters.
MAX_WORD_CHARS = 64

# Arrays and maps inside one another: JSON of real notebooks and widgets stays below 20; recursion costs stack.
MAX_DEPTH = 64

# Items (numbers, strings, containers) in one frame or one JSON-RPC object. An empty map has 1 byte on the wire, 72 in
# memory and takes 0.3 us: 16 MiB of them would be 1.2 GB and 5 s. With this it is 18 MB and 0.1 s.
MAX_ITEMS = 250_000

# An integer of a tagged "big number": arithmetic and printing are quadratic in its length.
MAX_BIG_INTEGER_BYTES = 64

# --- Requests and events

MAX_JSONRPC_BYTES = 8 * MIB  # half a frame, so that the frame around it always fits
MAX_BUFFERS_BYTES = 8 * MIB  # the buffers of one widget message; they travel inside a JSON-RPC object or become blobs
MAX_REQUESTS_IN_FLIGHT = 64  # of one peer: a person's page has a handful; each holds its params and maybe a wait
MAX_QUEUED_EXECUTIONS = 10_000  # of one room: ten runs of the biggest notebooks, and the queue is in the document

# --- Sync

# One outgoing sync payload. What a slow peer has in flight, and how long one document holds up the others' frames.
MAX_SYNC_PAYLOAD = 256 * 1024

# Where one write to a socket ends, of each kind: sync payloads, notices, the rest. What a slow peer has in flight is copied
# twice on its way; a fast one gains nothing from larger writes.
MAX_BATCH_BYTES = MIB

MAX_NEED = 64  # missing dependencies asked for at once: the peer then sends what is behind them as well
MAX_HEADS = 1000  # hashes in one set of heads: as many branches would have to be open at once
MAX_HAVE = 16  # entries of `have` in a sync message: stock clients send one

# Changes in one sync message of version 1. A stock client that comes back sends everything that it did meanwhile in one
# message, and each keystroke is a change: this is days of typing. Reading as many takes 20 ms, checking them 3 s.
MAX_SYNC_ENTRIES = 100_000

# What the daemon holds for a peer that does not read: frames, events and their buffers. Then it is dropped.
MAX_PEER_BYTES = 8 * MIB

# --- Changes, before they reach the Rust core

# Sync messages with changes that wait for the doc-writer, and their bytes; beyond, the peers that send them are not read.
MAX_PENDING_CHANGES = 64
MAX_PENDING_BYTES = 32 * MIB  # two of the largest frames
# Operations that are applied in one go (0.5 to 3 us each, in which nothing else runs); more come one group after another.
MAX_GROUP_OPS = 10_000

# The same in changes: one takes 12 us to 0.5 ms, the latter where there are very many authors or heads.
MAX_GROUP_CHANGES = 100

# Heads of a document: as many branches would have to be open at once, and whoever merges them names each. What one more change
# takes grows with their number: 9 000, in 900 KB on the wire, held the loop for a minute.
MAX_DOCUMENT_HEADS = MAX_HEADS

# Operations of one change: 115 bytes can say 2 million, which took 5.8 s and 1 GB to apply. This many take 0.3 s.
MAX_CHANGE_OPS = 100_000

# Operations of one document, all history: about 1 GB in the core. An operation's counter can't be above it either,
# since every change starts at most one above all that it knows; the core itself breaks at 2**32.
MAX_DOCUMENT_OPS = 2_000_000
# Numbers of operations that changes may leave out, in all. One made beside others starts above those as well, and may come
# before them; but numbers that nobody uses are lost to everybody, so that one small change could end a document.
MAX_SKIPPED_OPS = MAX_DOCUMENT_OPS // 10

# New keys of maps and items of lists in changes that are applied in one go, characters of texts aside. A notebook of a thousand
# cells has 8 000. The core takes 50 ms for 10 000 cells without content; what follows, in turns, takes 0.5 s.
MAX_GROUP_VALUES = 10_000

# Places that are changed in one go: a pasted or deleted piece of text is one, whatever its length. Each takes the core 9 us,
# where a character of a piece takes 2: 100 000 scattered ones would hold the loop for 0.9 s. An editor that replaces a text by
# what differs, letter by letter, changes up to one for each letter or two.
MAX_GROUP_PLACES = 50_000

# New keys and items in all changes of peers to one document: each takes some 0.5 KB here, beside the core, and 5 us wherever
# all of them are read.
MAX_DOCUMENT_VALUES = 100_000

# Writing one key takes the core 19 ns for each time that it was written before: 20 000 times in one change, 42 KB, took 4 s.
# This is the sum of such times over what is applied in one go; 0.2 s. So one key may be written 4 000 times in one change.
MAX_REWRITING = 10_000_000

# Bodies of all changes that peers made of one document, as they are in the core: few operations can hold long values, 8 MiB in
# 8 KB on the wire. As much as 2 million keystrokes.
MAX_DOCUMENT_BYTES = 256 * MIB

# One change after inflating: a source of 1 MiB fits, and a pasted image of 5 MB. Deflate can blow up 1000 times.
MAX_CHANGE_BYTES = 8 * MIB

# All changes of one sync message after inflating: a frame of 16 MiB could hold 10 000 that inflate to 8 MiB each.
MAX_CHANGES_BYTES = 64 * MIB

MAX_DEPS = MAX_HEADS  # dependencies of one change are the heads that its author had
MAX_ACTORS = 10_000  # other actors named by one change; every session of every client is an actor
MAX_ACTOR_BYTES = 64  # an actor id: stock ones have 16 (a UUID) or 32 bytes

MAX_SOURCE_BYTES = MIB  # a cell's source: at 8 us a character it is the slowest thing to write, 8 s in slices

# --- Values

INLINE_LIMIT = 1024  # UTF-8 bytes that a value may have inside the document; more goes to the blob store

# --- Connections and rooms

# Events that wait for one peer and notebook: the end of each execution of a full queue, which can all come at once, and what
# else happens until the peer has followed to another runtime document. They have 420 bytes each, so 8 MiB hold them.
MAX_HELD_EVENTS = MAX_QUEUED_EXECUTIONS + 2000

MAX_DOCUMENTS_PER_PEER = 200  # two for each notebook: nobody works in a hundred notebooks on one connection
MAX_RELAYED_BYTES = 64 * 1024  # presence and cursors have some hundred bytes; this is multiplied by the number of peers
MAX_ROOMS = 500  # open notebooks: each has a task tree, two documents and maybe a kernel of 50 MB
