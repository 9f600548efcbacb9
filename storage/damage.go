package storage

import "errors"

// What a node finds when its own files contradict each other. The node that meets
// one of these errors must not go on as if nothing had happened: see
// docs/durability.md.
var (
	// ErrStateBesideLog means that the applied state of one replica does not belong
	// to its Raft log: the state has applied an entry that the log holds with another
	// term, or does not hold at all. Only that replica is wrong; it must serve nothing.
	ErrStateBesideLog = errors.New("the applied state does not belong to the Raft log")
	// ErrLogLost means that the log database, or the Raft log of the control group,
	// ends below what this node has acknowledged. Its votes are in doubt: the node
	// must stop, and its data directory must be emptied.
	ErrLogLost = errors.New("acknowledged entries are lost")
	// ErrStateLost means that the state database lacks records in the middle: what it
	// holds behind them is not the result of applying a log.
	ErrStateLost = errors.New("the state database has a gap")
	// ErrMarksOtherNode means that the file "marks" belongs to another node.
	ErrMarksOtherNode = errors.New("the marks belong to another node")
	// ErrDamaged means that a file on which votes depend (marks, control.bolt) is not
	// what this node wrote. The node must stop, and its data directory must be emptied.
	ErrDamaged = errors.New("damaged file")
)
