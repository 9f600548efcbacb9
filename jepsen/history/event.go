package history

import (
	"encoding/json"
	"time"
)

// Format is the version of the file format that this package writes and reads.
const Format = 1

// Type says what a line is.
type Type string

// The types of events. The first line is a TypeRun.
const (
	TypeRun      Type = "run"
	TypeInvoke   Type = "invoke"
	TypeOK       Type = "ok"
	TypeFail     Type = "fail"
	TypeInfo     Type = "info"
	TypeFault    Type = "fault"    // begins
	TypeHealed   Type = "healed"   // the fault of the same number is over
	TypeFate     Type = "fate"     // of an eventual write, asked at the end
	TypeConflict Type = "conflict" // listed at the end
	TypeReplica  Type = "replica"  // what one node holds of one partition, at the end
	TypeTrouble  Type = "trouble"  // of a process: a panic, an exit nobody asked for
	TypeStall    Type = "stall"    // of the machine, over now
	TypeNote     Type = "note"
	TypeEnd      Type = "end" // the run was carried through
)

// Event is one line. The field of its type is set, and no other.
type Event struct {
	Type     Type          `json:"type"`
	At       time.Duration `json:"at"` // since the run began
	Run      *Run          `json:"run,omitempty"`
	Op       *Op           `json:"op,omitempty"`
	Fault    *Fault        `json:"fault,omitempty"`
	Fate     *Fate         `json:"fate,omitempty"`
	Conflict *Conflict     `json:"conflict,omitempty"`
	Replica  *Replica      `json:"replica,omitempty"`
	Trouble  *Trouble      `json:"trouble,omitempty"`
	Stall    *Stall        `json:"stall,omitempty"`
	Note     string        `json:"note,omitempty"`
	End      *End          `json:"end,omitempty"`
}

// Run says what was run.
type Run struct {
	Format     int           `json:"format"`
	Began      time.Time     `json:"began"`
	Workloads  []string      `json:"workloads"`
	Nemeses    []string      `json:"nemeses"`
	Seed       uint64        `json:"seed"`
	TimeLimit  time.Duration `json:"time_limit"`
	Lab        string        `json:"lab"`
	Nodes      []string      `json:"nodes"`
	Partitions int           `json:"partitions"`
	// Placement names, by partition, the nodes that hold a replica of it with a
	// vote. Op.Partition is a place in it.
	Placement [][]string `json:"placement,omitempty"`
	// Replication factor, and the election timeout that the ledger of availability
	// counts in.
	ReplicationFactor int           `json:"replication_factor"`
	ElectionTimeout   time.Duration `json:"election_timeout"`
	// Binary is the path of the program, Version what it says of itself, Planted the
	// fault that was planted in it.
	Binary  string `json:"binary"`
	Version string `json:"version"`
	Planted string `json:"planted,omitempty"`
	// Harness is the version of capstan-jepsen, Command how it was called.
	Harness string   `json:"harness"`
	Command []string `json:"command,omitempty"`
	// Schedule is the plan of faults, as nemesis.Schedule prints it, an event each.
	Schedule []json.RawMessage `json:"schedule,omitempty"`
}

// Fault is one fault as it was carried out. The line at its end says what it did.
type Fault struct {
	Number int      `json:"number"` // in the schedule, from 0
	Kind   string   `json:"kind"`
	What   string   `json:"what"`            // in one line, with those it hit
	Nodes  []string `json:"nodes,omitempty"` // that it hit: killed, paused, bent; or the smaller side of a cut
	// Apart lists, for a cut, the groups of nodes that still reach each other whole,
	// if it makes such groups. Nodes that nobody is cut off from are in none.
	Apart [][]string `json:"apart,omitempty"`
	// ClientsToo: clients do not reach Nodes either.
	ClientsToo bool `json:"clients_too,omitempty"`
	// Felt and Effect, at the end: whether it did anything, and what, in one line.
	Felt   bool   `json:"felt,omitempty"`
	Effect string `json:"effect,omitempty"`
}

// Fate of an eventual write, as AwaitWrite tells it: pending, committed,
// superseded, expired or lost. Version is its own if it is committed, and that of
// what it lost to if it is superseded.
type Fate struct {
	Op      int    `json:"op"` // the write
	Receipt string `json:"receipt"`
	Fate    string `json:"fate"`
	Version string `json:"version,omitempty"`
}

// Conflict is one entry of the lists of conflicts.
type Conflict struct {
	Key     string `json:"key"`
	Value   string `json:"value,omitempty"`
	Delete  bool   `json:"delete,omitempty"`
	Losing  string `json:"losing"`
	Winning string `json:"winning"`
	Cause   string `json:"cause"` // stale-base or older
}

// Replica is what one node holds of one partition: of the keys that the
// workloads wrote there.
type Replica struct {
	Node      string `json:"node"`
	Partition int    `json:"partition"`
	Keys      int    `json:"keys"`
	Hash      string `json:"hash"` // over keys, values and versions, in order
}

// Trouble is what a process should never do.
type Trouble struct {
	Node string `json:"node"`
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	What string `json:"what"`
}

// Stall is a time in which the process did not get to run in which clients and the
// network between the nodes are: nothing that took long then is anybody else's fault.
type Stall struct {
	For time.Duration `json:"for"` // until the line was written
}

// End says that the run was carried through to its end: all was healed, final
// operations were done.
type End struct {
	// Settled: no tentative write was left anywhere. Else Tentative is how many a node
	// told of when the waiting was over.
	Settled   bool   `json:"settled"`
	Tentative uint64 `json:"tentative,omitempty"`
	// Asked: fates and conflicts were asked for, completely.
	Asked bool `json:"asked"`
	// ConflictsDropped: the cluster's lists were full, so that some were dropped.
	ConflictsDropped bool `json:"conflicts_dropped,omitempty"`
	// Removed are the ids of nodes whose tentative writes were declared lost.
	Removed []string `json:"removed,omitempty"`
	// Joined are the ids of the nodes that became members during the run.
	Joined []string `json:"joined,omitempty"`
	// Failed says what of the end could not be carried out.
	Failed string `json:"failed,omitempty"`
}
