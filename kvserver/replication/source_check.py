"""Whether a node may be followed: looked at before anything of it is taken.

Each check names what is wrong, and what ends it (``states.Lasting``). Nothing here is proof: the bytes that come later are
checked frame by frame. But a cluster's id, a register and a name that do not fit are found here, where they can be said in words.

A circle of followers is looked for along what each node says whom it follows. It need not be a mistake: while another node
becomes primary, its old primary may follow it already, and it itself still follows that one. So a circle is tried again.
"""

from __future__ import annotations

from collections.abc import Callable

from kvserver.base.errors import KvError
from kvserver.base.types import NO_EPOCH, Epoch
from kvserver.replication.home import Home, obeyed
from kvserver.replication.messages import Description, NodeIdentity
from kvserver.replication.peer import Peer, Peers
from kvserver.replication.states import Happening, Lasting

DESCRIBE_S = 3.0
"""How long a node may take to say who it is."""

MOST_HOPS = 16
"""So many followers behind one another are looked at for a circle."""


class Setback(Exception):
    """A follower cannot go on as it wanted to."""

    def __init__(self, happening: Happening, why: str, lasting: Lasting | None = None) -> None:
        super().__init__(why)
        self.happening = happening
        self.why = why
        self.lasting = lasting


def set_back(why: str) -> Setback:
    """Return that it is tried again after a pause."""
    return Setback(Happening.SET_BACK, why)


def refused(why: str) -> Setback:
    """Return that this source must not be followed, and another one may."""
    return Setback(Happening.REFUSED, why, Lasting.SOURCE)


def check_source(own: NodeIdentity, promised: Epoch, address: str, found: Description) -> None:
    """Check that a node which says this of itself may be followed. Raises Setback."""
    check_identity(own, address, found)
    if found.role not in ("primary", "follower"):
        raise set_back(f"{address} is changing its part")
    if found.role == "primary" and found.state == "FENCED":
        raise Setback(Happening.LOWER_EPOCH, f"{address} is a primary that was fenced: there is a newer epoch than its own")
    check_epoch(promised, address, found.epoch)


def check_identity(own: NodeIdentity, address: str, found: Description) -> None:
    """Check who a node is. Raises Setback."""
    theirs = found.identity
    if theirs.node_id == own.node_id:
        raise refused(f"{address} is this very node, or one with a copy of its data folder; a node cannot follow itself")
    if not theirs.cluster_id:
        raise set_back(f"{address} belongs to no cluster yet")
    if own.cluster_id and theirs.cluster_id != own.cluster_id:
        raise refused(f"{address} is a node of cluster {theirs.cluster_id.hex()}, this one of {own.cluster_id.hex()}")
    if theirs.register_id != own.register_id:
        what = f"{address} sees the register {theirs.register_id!r}, this node {own.register_id!r}"
        raise refused(f"{what}; all nodes of a cluster see the same: see --register")
    if theirs.name == own.name:
        raise refused(f"{address} is called {own.name!r}, as this node is; each node of a cluster has a name of its own")


def check_epoch(promised: Epoch, address: str, epoch: Epoch) -> None:
    """Check the epoch that a node serves under, where it says one. Raises Setback."""
    if epoch == NO_EPOCH or promised == NO_EPOCH:
        return
    if epoch.number < promised.number:
        what = f"{address} is of epoch {epoch.number}; this node has promised to obey epoch {promised.number}"
        raise Setback(Happening.LOWER_EPOCH, what)
    if epoch.number == promised.number and epoch != promised:
        what = (
            f"epoch {epoch.number} of {address} has the nonce {epoch.nonce:016x}, the one that was promised {promised.nonce:016x}"
        )
        raise Setback(Happening.REFUSED, f"{what}: two nodes have claimed one number", Lasting.OPERATOR)


async def check_circle(peers: Peers, own: NodeIdentity, address: str, found: Description) -> None:
    """Check that a follower does not follow this node, through however many others. Raises Setback."""
    way = [address]
    while found.role == "follower" and found.follows:
        if found.follows == own.address or found.identity.node_id == own.node_id:
            raise _circle(way)
        if found.follows in way or len(way) > MOST_HOPS:
            return  # a circle of others, and they will hear of it themselves
        way.append(found.follows)
        peer = peers(found.follows)
        try:
            found = await peer.describe(DESCRIBE_S)
        except KvError:
            return  # nobody can tell; whoever cannot be reached ships nothing to this node either
        finally:
            await peer.close()
    if found.identity.node_id == own.node_id:
        raise _circle(way)


def _circle(way: list[str]) -> Setback:
    what = f"{way[0]} follows this node" if len(way) == 1 else f"{' follows '.join(way)}, which is or follows this node"
    return Setback(Happening.REFUSED, f"nobody would be first: {what}; follow the primary", Lasting.TIME)


async def find_source(home: Home, address: str, on_address: Callable[[str], None]) -> tuple[Peer, Description]:
    """Return the node to follow, checked: the one at the address, or the primary that it names.

    ``on_address`` is told whom it is tried to follow. Raises Setback, KvError.
    """
    if not address:
        on_address("")
        raise set_back("nobody knows who the primary is")
    own = home.identity()
    if address == own.address:
        raise refused(f"{address} is this node's own address; a node cannot follow itself")
    peer, found = await _describe(home, address, on_address)
    try:
        if found.role == "follower" and not home.cascades and found.primary not in ("", address):
            if found.primary == own.address:
                raise set_back(f"{address} takes this node for the primary")
            check_identity(own, address, found)  # a stranger's word about who is primary is worth nothing
            await peer.close()
            peer, found = await _describe(home, found.primary, on_address)
        check_source(own, obeyed(home), peer.address, found)
        await check_circle(home.peers, own, peer.address, found)
        if found.epoch == NO_EPOCH:
            raise set_back(f"{peer.address} has no log yet")
    except BaseException:
        await peer.close()
        raise
    return peer, found


async def _describe(home: Home, address: str, on_address: Callable[[str], None]) -> tuple[Peer, Description]:
    on_address(address)
    peer = home.peers(address)
    try:
        return peer, await peer.describe(DESCRIBE_S)
    except BaseException:
        await peer.close()
        raise
