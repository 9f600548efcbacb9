// Package logcheck says what may stand in a Raft log. Package transport asks it
// before an entry of another node reaches the Raft library, and package
// replication asks it of the entries on disk when a replica is opened.
//
// The Raft library stores an entry first and looks at it afterwards. An entry of
// an unknown type, or a configuration that it cannot decode, makes it panic, then
// and at every later start. So such an entry must not be stored, and one that is
// stored must fail its own replica and not the process.
package logcheck
