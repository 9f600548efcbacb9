package replication

import "io"

// Entry is one committed log entry on its way into a [Machine].
type Entry struct {
	Index, Term uint64
	// Commands were proposed together and share the index; none for a no-op.
	Commands [][]byte
}

// Machine is the replicated state machine of one replica. The group calls
// Apply from one goroutine at a time; the other methods may be called beside it.
type Machine interface {
	// Apply takes up entries in log order and gives one result a command, in
	// order. Entries at or below Applied have been taken up before: they are
	// skipped, and their results are nil. The machine's applied index moves in
	// the same atomic step as its state, also past an entry without commands.
	// An error is fatal for the replica.
	Apply(entries []Entry) ([][]any, error)
	// Applied is the index and term of the last entry taken up.
	Applied() (index, term uint64)
	// Sync returns once all that Apply has taken up is durable. The log may be
	// cut up to there afterwards.
	Sync() error
	// View pins the state as it is now, to be streamed to a replica that is
	// too far behind for the log.
	View() (MachineView, error)
	// Stage begins to receive a streamed view. Nothing changes before Install.
	Stage() (MachineStage, error)
}

// CommandChecker is a [Machine] that tells beforehand what it cannot apply. A
// command for which Check returns an error never enters the log of a follower.
type CommandChecker interface {
	// Check depends on the command alone. It is called beside the other methods.
	Check(command []byte) error
}

// MachineView is a pinned state of a [Machine]. One goroutine at a time.
type MachineView interface {
	// Applied is the last entry that the view holds.
	Applied() (index, term uint64)
	// WriteTo streams the view, self-delimiting and checksummed.
	WriteTo(w io.Writer) (int64, error)
	Close() error
}

// MachineStage receives the stream of a [MachineView]. One goroutine at a time.
type MachineStage interface {
	// ReadFrom takes up one whole stream; a stream that breaks off, or whose
	// checksum is wrong, is an error and leaves the machine as it was.
	ReadFrom(r io.Reader) (int64, error)
	// Install replaces the machine's state with the staged one, atomically and
	// durably, unless the machine is already at or past it.
	Install() error
	// Close throws away what was staged and not installed.
	Close() error
}
