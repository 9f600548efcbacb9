package node

import (
	"net"
	"strings"

	"github.com/capstan-kv/capstan/api"
	"github.com/capstan-kv/capstan/budget"
)

const (
	mib = 1 << 20

	// DefaultMemory is what a node sizes itself for if nothing limits its memory.
	DefaultMemory = 1024 * mib
	// LeastMemory is the least that a node can be sized for.
	LeastMemory = 256 * mib
	// FewFiles is the number of open files below which a node warns.
	FewFiles = 1024

	// fixedFiles are the descriptors kept for listeners, write-ahead logs, links to 16
	// peers in both directions, and whatever a library opens for a moment.
	fixedFiles = 96
	// leastTables is the fewest tables that Pebble keeps open, whatever it is told,
	// with its other files.
	leastTables = 74
	// leastConnections of clients are possible, whatever the limit on files.
	leastConnections = 16
	// connectionBytes is what a connection of a client is taken to cost at rest.
	connectionBytes = 128 << 10
	// requestBytes is what a request under way is taken to cost beside its body.
	requestBytes = 128 << 10
	// profileConnections bounds connections for profiles.
	profileConnections = 16
)

// limits are the sizes of all that takes memory or descriptors at a node. docs/limits.md
// explains them.
type limits struct {
	// stateCache and logCache are the block caches of the two databases, stateTable and
	// logTable their memtables.
	stateCache, logCache int64
	stateTable, logTable uint64
	// stateFiles and logFiles are the tables that they keep open.
	stateFiles, logFiles int

	// requests counts requests under way; clients bounds the bytes of their bodies, and
	// once more those of the answers.
	requests int
	clients  int64
	// scans bounds the pages that all scans hold, oneScan those of one.
	scans, oneScan int64
	// forwarded bounds the requests and answers of other nodes' work, fromPeer those of
	// one node.
	forwarded, fromPeer int64
	// proposals bounds writes on their way through the logs of all partitions, recent
	// the newest entries of those logs that are kept in memory.
	proposals, recent int64

	connections, perAddress int
}

// limitsFor sizes a node for so many bytes of memory and so many open files.
func limitsFor(memory int64, files int) limits {
	memory = max(memory, LeastMemory)
	// Up to 1 GiB the memtables grow with what is left beside the fixed needs.
	table := min(max((memory-LeastMemory)/12, 8*mib), 64*mib)
	l := limits{
		stateCache: memory / 8, logCache: 8 * mib,
		stateTable: uint64(table / 2), logTable: uint64(table),
		stateFiles: min(max(files/8, leastTables), 512), logFiles: min(max(files/16, leastTables), 256),
		requests: int(min(memory/requestBytes, 1<<16)), clients: memory / 16,
		scans: memory / 8, forwarded: memory / 16, proposals: memory / 16, recent: memory / 32,
	}
	l.oneScan, l.fromPeer = l.scans/2, l.forwarded/2
	l.connections = max(leastConnections, min(int(memory/connectionBytes), files-l.stateFiles-l.logFiles-fixedFiles))
	l.perAddress = max(leastConnections/2, l.connections*3/4)
	return l
}

// GoMemory is the part of a node's memory that Go's runtime may use: the block caches
// and memtables are outside of its heap, and a sixteenth is for what nobody counts.
func GoMemory(memory int64) int64 {
	l := limitsFor(memory, FewFiles)
	return max(memory, LeastMemory) - l.stateCache - l.logCache - 2*int64(l.stateTable+l.logTable) - memory/16
}

// budgets are the budgets of one node.
type budgets struct {
	clients     api.Budgets
	connections *api.Connections
	profiles    *api.Connections
	scans       *budget.Budget // an owner is one scan
	forwarded   *budget.Budget // an owner is one node
	proposals   *budget.Budget
}

func (l limits) budgets() *budgets {
	return &budgets{
		clients:     api.NewBudgets(l.clients, l.requests),
		connections: api.NewConnections(l.connections, l.perAddress),
		profiles:    api.NewConnections(profileConnections, 0),
		scans:       budget.New("scans", budget.Limits{Bytes: l.scans, OwnerBytes: l.oneScan, Count: maxScans}),
		forwarded:   budget.New("forwarded work", budget.Limits{Bytes: l.forwarded, OwnerBytes: l.fromPeer}),
		proposals:   budget.New("writes on their way", budget.Limits{Bytes: l.proposals}),
	}
}

// maxScans bounds the scans under way at a node.
const maxScans = 256

// hostOnly is the host of an advertised address, in the form of [api.Local].
func hostOnly(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return strings.ToLower(host)
}
