package history

import (
	"fmt"
	"strings"
	"time"
)

// Level is the consistency that an operation asks for.
type Level string

// The levels.
const (
	Linearizable Level = "linearizable"
	Bounded      Level = "bounded"
	Eventual     Level = "eventual"
)

// Func is what an operation does.
type Func string

// The functions.
const (
	Get    Func = "get"
	Put    Func = "put"
	Delete Func = "delete"
	Scan   Func = "scan"
)

// Condition of a linearizable write.
type Condition string

// The conditions.
const (
	Always    Condition = ""
	IfAbsent  Condition = "absent"
	IfPresent Condition = "present"
	IfVersion Condition = "version" // of Op.Expect, as read before: Op.ExpectVersion
)

// Outcome is how an operation ended.
type Outcome string

// The outcomes.
const (
	// OK: it was answered, and did what it says.
	OK Outcome = "ok"
	// Fail: it was refused, or its condition did not hold: it had no effect and
	// never will have.
	Fail Outcome = "fail"
	// Info: a write that may have taken effect, or may yet, or a read without an
	// answer.
	Info Outcome = "info"
)

// Op is one request of one client, with its answer once it has one. Keys and values
// are text: workloads write nothing else.
type Op struct {
	// ID is the operation's place in the history, from 0, in order of invocation.
	ID int `json:"id"`
	// Process does one operation after the other. One whose operation ended as
	// Info goes on under a new number.
	Process int `json:"process"`
	// Workload that the operation belongs to.
	Workload string `json:"workload"`
	// Node is the name of the node that was asked, NodeID its id as versions have
	// it. Without a Node the client found one by itself, and may have asked several.
	Node   string `json:"node"`
	NodeID string `json:"node_id,omitempty"`
	// Session the operation belongs to: it sent what the session's operations that
	// had ended before had been given. Empty: none.
	Session string `json:"session,omitempty"`
	// Final operations come after all faults are over and healed.
	Final bool `json:"final,omitempty"`

	Func  Func   `json:"f"`
	Level Level  `json:"level"`
	Key   string `json:"key"` // of a scan: the prefix
	// Partition that the key lives in; -1 for a scan of several.
	Partition int `json:"partition,omitempty"`
	// Value written, or read.
	Value string `json:"value,omitempty"`
	// Element is what a write adds to the value it replaces, where a workload's
	// values are made of parts.
	Element string `json:"element,omitempty"`
	// Condition of a write, the value that it expects and that value's version.
	Condition     Condition     `json:"if,omitempty"`
	Expect        string        `json:"expect,omitempty"`
	ExpectVersion string        `json:"expect_version,omitempty"`
	Acks          int           `json:"acks,omitempty"`
	MaxStaleness  time.Duration `json:"max_staleness,omitempty"`
	// Deadline is how long the client was ready to wait.
	Deadline time.Duration `json:"deadline,omitempty"`

	// What follows is of the answer.

	// Outcome is empty while there is none.
	Outcome Outcome `json:"outcome,omitempty"`
	// Mismatch: it failed since its condition did not hold.
	Mismatch bool `json:"mismatch,omitempty"`
	// Found: a read found a value. Existed: a linearizable delete did.
	Found   bool `json:"found,omitempty"`
	Existed bool `json:"existed,omitempty"`
	// Version written or read, in its text form index-timestamp-node. Of a failed
	// condition: the one that stands there.
	Version   string `json:"version,omitempty"`
	Tentative bool   `json:"tentative,omitempty"`
	// Base is what the node that took an eventual write had heard of.
	Base    uint64 `json:"base,omitempty"`
	Receipt string `json:"receipt,omitempty"`
	// Staleness that the answer says, if StalenessKnown.
	Staleness      time.Duration `json:"staleness,omitempty"`
	StalenessKnown bool          `json:"staleness_known,omitempty"`
	ServedBy       string        `json:"served_by,omitempty"`
	// Entries that a scan gave.
	Entries []Entry `json:"entries,omitempty"`
	// Code, Reason and Error of what failed, as the cluster names them.
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	Error  string `json:"error,omitempty"`

	// Invoke and Return are the times of the events; Return means nothing while there
	// is no answer. They stand in the events, not here, in the file.
	Invoke time.Duration `json:"-"`
	Return time.Duration `json:"-"`
}

// Entry is one key of a scan.
type Entry struct {
	Key     string `json:"key"`
	Value   string `json:"value,omitempty"`
	Version string `json:"version,omitempty"`
}

// Write reports whether the operation changes something.
func (o *Op) Write() bool { return o.Func == Put || o.Func == Delete }

// String tells an operation in one line, for people.
func (o Op) String() string {
	var b strings.Builder
	until := "?"
	if o.Outcome != "" {
		until = fmt.Sprintf("%.3f", o.Return.Seconds())
	}
	node := o.Node
	if node == "" {
		node = "any node"
	}
	fmt.Fprintf(&b, "[%.3fs, %ss] process %d at %s: %s %s %s", o.Invoke.Seconds(), until, o.Process, node, o.Level, o.Func, o.Key)
	switch {
	case o.Func == Put:
		fmt.Fprintf(&b, "=%s", o.Value)
	case o.Func == Get && o.Found:
		fmt.Fprintf(&b, " -> %s", o.Value)
	case o.Func == Get && o.Outcome == OK:
		b.WriteString(" -> nothing")
	case o.Func == Scan && o.Outcome == OK:
		fmt.Fprintf(&b, " -> %d keys", len(o.Entries))
	}
	switch o.Condition {
	case Always:
	case IfVersion:
		fmt.Fprintf(&b, " if it is %s", o.Expect)
	default:
		fmt.Fprintf(&b, " if %s", o.Condition)
	}
	if o.Version != "" {
		fmt.Fprintf(&b, " version %s", o.Version)
	}
	if o.Write() && o.Level == Eventual && o.Outcome == OK {
		fmt.Fprintf(&b, " base %d", o.Base)
	}
	if o.Level == Bounded {
		fmt.Fprintf(&b, " staleness %v of %v", o.Staleness, o.MaxStaleness)
	}
	if o.Tentative {
		b.WriteString(" tentative")
	}
	if o.Session != "" {
		fmt.Fprintf(&b, " session %s", o.Session)
	}
	switch {
	case o.Mismatch:
		b.WriteString(" (condition failed)")
	case o.Outcome == "":
		b.WriteString(" (no answer)")
	case o.Outcome != OK:
		fmt.Fprintf(&b, " (%s: %s)", o.Outcome, o.Reason)
	}
	return b.String()
}
