package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Buckets of request durations in seconds: from a read of memory to a client's
// default deadline.
var durationBuckets = []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// Buckets of the promotion lag in seconds: from a round trip and two fsyncs to
// a cut of an hour. They are close where a healthy cluster is.
var lagBuckets = []float64{.001, .002, .003, .005, .0075, .01, .015, .02, .03, .04, .05, .075, .1, .15, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600}

// Snapshot is what a node looks like at one moment.
type Snapshot struct {
	Node, Version string
	Partitions    []Partition
	Databases     []Database
	Peers         []Peer
	Control       Group
	CutPeers      int           // other nodes that this one was cut off from on purpose
	CutFor        time.Duration // how long there has been any
	Tentative     []Tentative
	Store         TentativeStore
	HeldBack      []HeldBack
	LogDropped    uint64 // log lines that were not written
	Quarantined   int    // replicas of this node that are out of service for good
	Unopened      int    // replicas of this node that could not be opened at this start
	Disk          Disk
	Compared      Compared
}

// Compared counts the comparisons of replicas that the node has made, by what they
// found.
type Compared struct {
	Equal, Different, Incomplete uint64
	Last                         time.Time // zero: none yet
}

// Disk is the one that the data directory is on; zero if nobody can tell.
type Disk struct{ FreeBytes, TotalBytes, ReservedBytes uint64 }

// HeldBack is a node because of which partitions that this one leads have kept
// their tombstones for long.
type HeldBack struct {
	Node       string
	Partitions int
}

// Tentative is what the node holds of one partition's eventual writes that are
// not decided as far as it knows, whether it has a replica or not.
type Tentative struct {
	ID            string
	Backlog       int
	Hints         int
	OldestSeconds float64 // since the oldest was accepted, by the clocks of nodes
}

// TentativeStore is what all tentative writes take up, and how much they may.
type TentativeStore struct {
	DiskBytes, DiskLimit, MemoryBytes, MemoryLimit int64
}

// Conflicts is the conflict list of one replica, and what was superseded there
// since it was opened.
type Conflicts struct {
	Listed           uint64
	Dropped          uint64
	StaleBase, Older uint64
	Floor            uint64
}

// Partition is one replica held by the node.
type Partition struct {
	ID string
	Group
	Conflicts
}

// Group is one Raft replica.
type Group struct {
	Leader                     bool // this node leads
	HasLeader                  bool
	Term, Commit, Applied      uint64
	ReachableVoters, AllVoters int
}

// Database is one Pebble database.
type Database struct {
	Name                        string
	DiskBytes, MemTableBytes    uint64
	CacheHits, CacheMisses      int64
	Compactions, Flushes        int64
	CompactionDebt, WALBytes    uint64
	L0Files, ReadAmplification  int64
	StallsTotal, DiskSlowsTotal uint64
	CacheBytes, TableFileCount  int64
}

// Peer is the link to one other node.
type Peer struct {
	Name                                                 string
	Connected                                            bool
	FramesSent, FramesReceived, BytesSent, BytesReceived uint64
	Connects, Dropped                                    uint64
}

// Registry counts requests and serves all figures. Safe for concurrent use.
type Registry struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	lag      prometheus.Histogram
}

// New makes a registry whose figures other than requests come from snapshot,
// which is called for each scrape.
func New(snapshot func() Snapshot) *Registry {
	r := &Registry{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_requests_total",
			Help: "Requests answered, by method, consistency level and Connect code (ok for success).",
		}, []string{"method", "level", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "capstan_request_duration_seconds",
			Help:    "Time from a request's arrival to its answer.",
			Buckets: durationBuckets,
		}, []string{"method", "level"}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "capstan_promotion_lag_seconds",
			Help:    "Time from accepting an eventual write here to learning that it is decided.",
			Buckets: lagBuckets,
		}),
	}
	r.registry.MustRegister(r.requests, r.duration, r.lag, &collector{snapshot: snapshot},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Observe counts one finished request.
func (r *Registry) Observe(method, level, code string, d time.Duration) {
	r.requests.WithLabelValues(method, level, code).Inc()
	r.duration.WithLabelValues(method, level).Observe(d.Seconds())
}

// Promoted counts one eventual write that was accepted here and is decided.
func (r *Registry) Promoted(lag time.Duration) { r.lag.Observe(lag.Seconds()) }

// Handler serves the Prometheus text format.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("capstan_"+name, help, labels, nil)
}

var (
	nodeInfo = gauge("node_info", "1, with the node's id and version.", "node", "version")

	raftLeader    = gauge("raft_leader", "1 if this node leads the partition.", "partition")
	raftHasLeader = gauge("raft_has_leader", "1 if this node knows a leader of the partition.", "partition")
	raftTerm      = gauge("raft_term", "Raft term.", "partition")
	raftCommit    = gauge("raft_commit_index", "Highest log index known to be committed.", "partition")
	raftApplied   = gauge("raft_applied_index", "Highest log index applied.", "partition")
	raftReachable = gauge("raft_reachable_voters", "Voters heard from within an election timeout, this node included.", "partition")
	raftVoters    = gauge("raft_voters", "Voters of the partition.", "partition")

	dbDisk        = gauge("pebble_disk_bytes", "Size of the database on disk.", "database")
	dbMem         = gauge("pebble_memtable_bytes", "Size of the memtables.", "database")
	dbCache       = gauge("pebble_cache_bytes", "Size of the block cache in use.", "database")
	dbHits        = gauge("pebble_cache_hits_total", "Block cache hits.", "database")
	dbMisses      = gauge("pebble_cache_misses_total", "Block cache misses.", "database")
	dbCompactions = gauge("pebble_compactions_total", "Compactions done.", "database")
	dbFlushes     = gauge("pebble_flushes_total", "Memtable flushes done.", "database")
	dbDebt        = gauge("pebble_compaction_debt_bytes", "Estimated bytes still to be compacted.", "database")
	dbWAL         = gauge("pebble_wal_bytes_total", "Bytes written to the write-ahead log.", "database")
	dbL0          = gauge("pebble_l0_files", "Files in level 0.", "database")
	dbReadAmp     = gauge("pebble_read_amplification", "Sorted runs that a point read may look into.", "database")
	dbStalls      = gauge("pebble_write_stalls_total", "Times that writes had to wait for the database.", "database")
	dbSlow        = gauge("pebble_disk_slow_total", "Disk operations reported as slow.", "database")
	dbTables      = gauge("pebble_table_files", "Table files.", "database")

	quarantined = gauge("quarantined_replicas", "Replicas of this node that were found wrong and are out of service for good.")
	compared    = gauge("replica_comparisons_total", "Comparisons of a partition's replicas made by this node, by result: equal, different, incomplete (some did not answer).", "result")
	comparedAt  = gauge("replica_comparison_last_seconds", "When the last of them ended, as a Unix time; 0: none yet.")
	unopened    = gauge("unopened_replicas", "Replicas of this node that could not be opened; the next start tries again.")

	tentativeBacklog = gauge("tentative_backlog", "Eventual writes held here that are not decided as far as this node knows.", "partition")
	tentativeHints   = gauge("tentative_hints", "Of these, those that came as hints.", "partition")
	tentativeOldest  = gauge("tentative_oldest_seconds", "Age of the oldest of these, by the accepting node's clock.", "partition")
	tentativeDisk    = gauge("tentative_disk_bytes", "What tentative writes take up on disk.")
	tentativeDiskMax = gauge("tentative_disk_limit_bytes", "How much they may take up on disk; beyond it eventual writes are refused.")
	tentativeMem     = gauge("tentative_memory_bytes", "What the index of tentative writes takes up in memory.")
	tentativeMemMax  = gauge("tentative_memory_limit_bytes", "How much it may take up in memory.")
	superseded       = gauge("superseded_total", "Eventual writes superseded since this replica was opened, by cause.", "partition", "cause")
	conflictsListed  = gauge("conflicts", "Entries of the conflict list.", "partition")
	conflictsDropped = gauge("conflicts_dropped_total", "Entries dropped from the conflict list because of its bounds.", "partition")
	floorIndex       = gauge("tombstone_floor_index", "Log index behind which tombstones are dropped.", "partition")
	floorHeldBack    = gauge("tombstones_held_back", "Partitions led here that have kept tombstones for a minute and more because of the peer: it is down, or holds old writes.", "peer")
	chaosCut         = gauge("chaos_cut_peers", "Nodes that this node was told not to talk to, by ChaosService.")
	chaosFor         = gauge("chaos_cut_seconds", "How long this node has been told not to talk to somebody; 0: it is not.")

	diskFree     = gauge("disk_free_bytes", "Free space on the disk of the data directory.")
	diskTotal    = gauge("disk_total_bytes", "Size of that disk.")
	diskReserved = gauge("disk_reserved_bytes", "Free space below which writes are refused; deletes need a quarter of it.")

	logDropped = gauge("log_dropped_total", "Log lines that were not written: nobody read them in time, or writing failed.")

	peerUp       = gauge("peer_connected", "1 while the connection to the peer stands.", "peer")
	peerConnects = gauge("peer_connects_total", "Connections made to the peer.", "peer")
	peerDropped  = gauge("peer_dropped_total", "Frames refused because a queue was full.", "peer")
	peerFrames   = gauge("peer_frames_total", "Frames, by direction.", "peer", "direction")
	peerBytes    = gauge("peer_bytes_total", "Bytes, by direction.", "peer", "direction")
)

var all = []*prometheus.Desc{
	nodeInfo, raftLeader, raftHasLeader, raftTerm, raftCommit, raftApplied, raftReachable, raftVoters,
	dbDisk, dbMem, dbCache, dbHits, dbMisses, dbCompactions, dbFlushes, dbDebt, dbWAL, dbL0, dbReadAmp, dbStalls, dbSlow, dbTables,
	peerUp, peerConnects, peerDropped, peerFrames, peerBytes, chaosCut, chaosFor,
	tentativeBacklog, tentativeHints, tentativeOldest, tentativeDisk, tentativeDiskMax, tentativeMem, tentativeMemMax,
	superseded, conflictsListed, conflictsDropped, floorIndex, logDropped, quarantined, unopened,
	diskFree, diskTotal, diskReserved,
	compared, comparedAt,
}

type collector struct{ snapshot func() Snapshot }

func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range all {
		to <- desc
	}
}

func (c *collector) Collect(to chan<- prometheus.Metric) {
	s := c.snapshot()
	set := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	count := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, labels...)
	}
	group := func(id string, g Group) {
		set(raftLeader, flag(g.Leader), id)
		set(raftHasLeader, flag(g.HasLeader), id)
		set(raftTerm, float64(g.Term), id)
		set(raftCommit, float64(g.Commit), id)
		set(raftApplied, float64(g.Applied), id)
		set(raftReachable, float64(g.ReachableVoters), id)
		set(raftVoters, float64(g.AllVoters), id)
	}
	set(nodeInfo, 1, s.Node, s.Version)
	set(chaosCut, float64(s.CutPeers))
	set(chaosFor, s.CutFor.Seconds())
	count(logDropped, float64(s.LogDropped))
	set(quarantined, float64(s.Quarantined))
	set(unopened, float64(s.Unopened))
	if s.Disk.TotalBytes > 0 {
		set(diskFree, float64(s.Disk.FreeBytes))
		set(diskTotal, float64(s.Disk.TotalBytes))
		set(diskReserved, float64(s.Disk.ReservedBytes))
	}
	count(compared, float64(s.Compared.Equal), "equal")
	count(compared, float64(s.Compared.Different), "different")
	count(compared, float64(s.Compared.Incomplete), "incomplete")
	last := 0.0
	if !s.Compared.Last.IsZero() {
		last = float64(s.Compared.Last.Unix())
	}
	set(comparedAt, last)
	group("control", s.Control)
	for _, p := range s.Partitions {
		group(p.ID, p.Group)
		count(superseded, float64(p.StaleBase), p.ID, "stale_base")
		count(superseded, float64(p.Older), p.ID, "older")
		set(conflictsListed, float64(p.Listed), p.ID)
		count(conflictsDropped, float64(p.Dropped), p.ID)
		set(floorIndex, float64(p.Floor), p.ID)
	}
	for _, t := range s.Tentative {
		set(tentativeBacklog, float64(t.Backlog), t.ID)
		set(tentativeHints, float64(t.Hints), t.ID)
		set(tentativeOldest, t.OldestSeconds, t.ID)
	}
	set(tentativeDisk, float64(s.Store.DiskBytes))
	set(tentativeDiskMax, float64(s.Store.DiskLimit))
	set(tentativeMem, float64(s.Store.MemoryBytes))
	set(tentativeMemMax, float64(s.Store.MemoryLimit))
	for _, h := range s.HeldBack {
		set(floorHeldBack, float64(h.Partitions), h.Node)
	}
	for _, d := range s.Databases {
		set(dbDisk, float64(d.DiskBytes), d.Name)
		set(dbMem, float64(d.MemTableBytes), d.Name)
		set(dbCache, float64(d.CacheBytes), d.Name)
		count(dbHits, float64(d.CacheHits), d.Name)
		count(dbMisses, float64(d.CacheMisses), d.Name)
		count(dbCompactions, float64(d.Compactions), d.Name)
		count(dbFlushes, float64(d.Flushes), d.Name)
		set(dbDebt, float64(d.CompactionDebt), d.Name)
		count(dbWAL, float64(d.WALBytes), d.Name)
		set(dbL0, float64(d.L0Files), d.Name)
		set(dbReadAmp, float64(d.ReadAmplification), d.Name)
		count(dbStalls, float64(d.StallsTotal), d.Name)
		count(dbSlow, float64(d.DiskSlowsTotal), d.Name)
		set(dbTables, float64(d.TableFileCount), d.Name)
	}
	for _, p := range s.Peers {
		set(peerUp, flag(p.Connected), p.Name)
		count(peerConnects, float64(p.Connects), p.Name)
		count(peerDropped, float64(p.Dropped), p.Name)
		count(peerFrames, float64(p.FramesSent), p.Name, "sent")
		count(peerFrames, float64(p.FramesReceived), p.Name, "received")
		count(peerBytes, float64(p.BytesSent), p.Name, "sent")
		count(peerBytes, float64(p.BytesReceived), p.Name, "received")
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
