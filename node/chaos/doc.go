// Package chaos pulls a node's network cable, for show and for tests: it knows from
// which other nodes this one is cut off, and enforces that where the node's traffic
// enters and leaves. Only traffic between nodes is touched; clients reach every node
// all the time.
//
//   - [Cuts.Allow] is the transport's question about each frame and each handshake: a
//     connection between nodes says who is at its other end.
//   - [Cuts.Gossip] wraps the network that gossip uses. Gossip's packets and streams
//     come from addresses, so [Cuts.Learn] has to be told where the nodes are.
//   - A packet of a cut is dropped in silence, a stream is reset: what is open when
//     a cut is made too.
//   - A cut of one side suffices: nothing goes out and nothing is let in.
//   - An incoming stream does not say who opened it, only from which host. While a
//     node is cut off, streams from its host are refused, also if others live there:
//     nodes that share a host (a demo) do without exchanging gossip's whole state
//     meanwhile, and live on packets.
//   - Nothing is kept: a node that starts is cut off from nobody.
//
// The node's timers are left alone: a node that is cut off finds that out by itself, by
// silence, as with a real cable.
//
// node wires it, and only with Config.EnableChaos.
package chaos
