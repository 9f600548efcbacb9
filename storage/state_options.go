package storage

import (
	"cmp"
	"runtime"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
)

// StateOptions says where the state database is and what it may use.
type StateOptions struct {
	// FS is where Dir is; nil means the operating system's.
	FS vfs.FS
	// Dir is the database's own directory; it is made if missing.
	Dir string
	// NodeID is stamped into the database; one that bears another is
	// [ErrStateOtherNode]. Empty means that nobody asks.
	NodeID partition.NodeID
	// Marks keeps what the database consists of, and refuses one with a gap
	// ([ErrStateLost]). Nil for none.
	Marks *Marks
	// CacheBytes bounds the block cache; 0 means DefaultStateCacheBytes.
	CacheBytes int64
	// MemTableBytes is the size of one memtable; 0 means
	// DefaultStateMemTableBytes. Up to four may stand at a time. On a small disk
	// it is less.
	MemTableBytes uint64
	// MaxOpenFiles bounds the tables kept open; 0 means 512.
	MaxOpenFiles int
	// Events receives what the database has to tell; may be nil.
	Events Listener
}

const (
	// DefaultStateCacheBytes holds the index and filter blocks of some tens of
	// GiB and the hot data blocks of a small node, and still lets several
	// nodes live on one laptop.
	DefaultStateCacheBytes = 128 << 20
	// DefaultStateMemTableBytes: a larger memtable means fewer flushes and so
	// less to compact, a smaller one less to replay after a crash. 32 MiB is
	// about 100,000 writes of 256 bytes.
	DefaultStateMemTableBytes = 32 << 20

	// stateBloomBitsPerKey gives about 1 % false positives. Puts with a
	// condition ask for keys that are absent as a rule, reads often do.
	stateBloomBitsPerKey = 10
	// stateBlockBytes is larger than Pebble's 4 KiB: records are some hundred
	// bytes, so a block still is searched fast, while the index stays small
	// enough to be cached whole.
	stateBlockBytes = 16 << 10
	// stateStopMemTables and stateL0StopFiles are where writes wait for the
	// disk. Four memtables and twelve L0 sublevels bound the memory and the
	// tables that a read has to look into.
	stateStopMemTables = 4
	stateL0StopFiles   = 12
	// stateL0CompactAt starts compactions early, since each sublevel of L0 is
	// one more table to look into for a read.
	stateL0CompactAt = 2
	// stateSyncEveryBytes makes the kernel write the unsynced write-ahead log
	// and tables out bit by bit, so that a Sync has little left to wait for.
	stateSyncEveryBytes = 1 << 20
	// stateBaseBytes and stateFileBytes are Pebble's defaults of the size of the
	// first level below L0, and of a table of L0.
	stateBaseBytes = 64 << 20
	stateFileBytes = 2 << 20
	// stateMaxOpenFiles bounds file descriptors well below the usual limit of
	// 1,024 a process, which connections need too.
	stateMaxOpenFiles = 512
)

// pebbleOptions are Pebble's options, chosen on purpose.
func (o StateOptions) pebbleOptions(fs vfs.FS, tell Listener) *pebble.Options {
	opts := &pebble.Options{
		FS:                          fs,
		Logger:                      pebbleLogger{database: stateDatabase, tell: tell},
		EventListener:               pebbleListener(stateDatabase, tell),
		FormatMajorVersion:          pebbleFormat,
		CacheSize:                   o.CacheBytes,
		MemTableSize:                o.MemTableBytes,
		MemTableStopWritesThreshold: stateStopMemTables,
		L0CompactionThreshold:       stateL0CompactAt,
		L0StopWritesThreshold:       stateL0StopFiles,
		LBaseMaxBytes:               int64(scaled(fs, o.Dir, stateBaseBytes, stateBaseShare, leastBase)),
		MaxOpenFiles:                cmp.Or(o.MaxOpenFiles, stateMaxOpenFiles),
		BytesPerSync:                stateSyncEveryBytes,
		WALBytesPerSync:             stateSyncEveryBytes,
		// One compaction, and a second one only when the tree falls behind:
		// on a small machine they compete with the requests for the cores.
		CompactionConcurrencyRange: func() (int, int) { return 1, max(1, runtime.GOMAXPROCS(0)/2) },
	}
	// The cheapest compression: it halves the disk traffic of typical values
	// and costs less CPU than writing the bytes.
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(stateBloomBitsPerKey)
		opts.Levels[i].BlockSize = stateBlockBytes
	}
	opts.TargetFileSizes[0] = int64(scaled(fs, o.Dir, stateFileBytes, fileShare, leastFile))
	opts.EnsureDefaults()
	return opts
}
