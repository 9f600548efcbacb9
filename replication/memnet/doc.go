// Package memnet is an in-memory network of named hosts, for tests: stream
// connections that behave like TCP, packets that behave like UDP, and links
// that can be cut, slowed and made lossy, each direction on its own.
//
// It waits only on condition variables and timers, so everything in it runs in
// a testing/synctest bubble under virtual time. A cut is a black hole, as a
// pulled cable is: dials hang until their context ends, bytes stay in flight
// and arrive after a heal (TCP would send them again), packets are lost.
// [Network.Reset] breaks connections instead, and [Network.Crash] is a process
// that dies: its listeners are gone and its connections are reset.
//
// A [Host] is one machine's view: it can listen and dial, and so stands in
// wherever a program takes its network from outside. All methods of all types
// are safe for concurrent use. One mutex guards a whole network: it is made to
// be right, not fast.
package memnet
