package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/fault"
)

const (
	// logDefaultMemTableBytes: a few seconds of writes at full speed. Entries
	// are cut off soon after they are applied, so with a large memtable most
	// of them, and the range deletion that covers them, meet in one flush and
	// never reach a table. Also the size of a WAL file; below half of it a
	// batch goes the ordinary way, and that is eight of the largest entries.
	logDefaultMemTableBytes = 64 << 20
	// logDefaultCacheBytes is small: the newest entries are read from the
	// replica's own cache above, older ones once, by a follower catching up.
	logDefaultCacheBytes = 8 << 20
	// logBaseBytes is the size of the first level below L0: what gets there is
	// about to be cut off.
	logBaseBytes = 256 << 20
	// logMemTableStop bounds the memtables waiting for a flush; beyond it all
	// writes stall.
	logMemTableStop = 4
	// logDefaultDiskSlow is well below an election timeout, so that the event
	// comes before its consequences.
	logDefaultDiskSlow = 500 * time.Millisecond
	// logFlushDeletions: cut-off entries give their room back this soon, also
	// on a node that has fallen idle.
	logFlushDeletions = 30 * time.Second
	// logNodeFormat is the format of the key space as a whole.
	logNodeFormat = 1
	// pebbleFormat is the format of both databases' own files. A newer Pebble does not
	// raise it by itself: an older release could not open the directory any more.
	pebbleFormat = pebble.FormatValueSeparation
)

// LogOptions configures a [Log].
type LogOptions struct {
	// FS defaults to the operating system's.
	FS vfs.FS
	// Dir is the database's own directory; it is made if absent.
	Dir string
	// NodeID is stamped into a new database; an old one must bear it.
	NodeID partition.NodeID
	// MustExist refuses a missing or empty database with [ErrLogMissing]: a
	// node that has voted must not come back without its votes.
	MustExist bool
	// Marks keeps how far the database was synced, and refuses one that ends below that
	// with [ErrLogLost]. Nil for none.
	Marks *Marks
	// CacheBytes is the size of the block cache; 0 means 8 MiB.
	CacheBytes int64
	// MemTableBytes is the size of a memtable and of a WAL file; 0 means 64 MiB.
	// On a small disk it is less: see Reserve.
	MemTableBytes uint64
	// MaxOpenFiles bounds the tables kept open; 0 means 1,000.
	MaxOpenFiles int
	// DiskSlowAfter is when an unfinished disk operation becomes a
	// [LogDiskSlow]; 0 means 500 ms, negative never.
	DiskSlowAfter time.Duration
	// Events may be nil.
	Events func(LogEvent)
}

// Log is the log database of a node: the Raft logs and stable values of all its
// replicas in one Pebble database, so that one fsync serves the writes of many.
// All methods, also of its [ReplicaLog]s, are safe for concurrent use.
//
// A write that fails leaves the database failed for good: its fate is unknown,
// and to go on would be to guess. The caller of that write and of each later
// call gets an error that wraps [ErrLogFailed], and the listener a [LogFailed].
// Pebble by itself would end the process; here its goroutines are left to hang
// and the directory stays locked, so the process must be ended in good order
// soon, and the database opened by a new one.
type Log struct {
	opts   LogOptions
	db     *pebble.DB
	health interface{ Close() error }
	freeze *logFreezeFS
	guard  *walGuard // nil without marks

	// use is held shared by each call, and alone by Close.
	use    sync.RWMutex
	closed bool

	flushes  *flushFailures
	failOnce sync.Once
	failure  error         // set before failed is closed
	failed   chan struct{} // closed by the first failure

	mu       sync.Mutex
	replicas map[Replica]*ReplicaLog

	tentative tentativeLogs
}

// OpenLog opens or makes the database in o.Dir.
func OpenLog(o LogOptions) (*Log, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = logDefaultCacheBytes
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = logDefaultMemTableBytes
	}
	o.MemTableBytes = scaled(o.FS, o.Dir, o.MemTableBytes, logTableShare, leastLogTable)
	if o.DiskSlowAfter == 0 {
		o.DiskSlowAfter = logDefaultDiskSlow
	}
	if o.Events == nil {
		o.Events = func(LogEvent) {}
	}
	l := &Log{opts: o, flushes: newFlushFailures(), failed: make(chan struct{}), replicas: map[Replica]*ReplicaLog{}}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("log database %s: %w", o.Dir, err)
	}
	return l, nil
}

func (l *Log) open() (err error) {
	options := l.pebbleOptions()
	defer options.Cache.Unref()
	defer func() {
		if r := recover(); r != nil { // logPebbleLogger.Fatalf, while opening
			err = fmt.Errorf("%w: opening panicked: %v", ErrLogFailed, r)
		}
		if err != nil {
			err = errors.Join(err, l.health.Close())
		}
	}()
	l.db, err = l.flushes.open(l.opts.Dir, options)
	if l.guard != nil {
		err = l.guard.done(err)
	}
	if err != nil {
		return logOpenError(err)
	}
	if err := l.checkNode(); err != nil {
		return errors.Join(err, l.db.Close())
	}
	if err := l.checkMark(); err != nil {
		return errors.Join(err, l.db.Close())
	}
	l.freeze.armed.Store(true)
	return nil
}

// logOpenError gives the refusals of Pebble types. It has some as text only.
func logOpenError(err error) error {
	switch text := err.Error(); {
	case errors.Is(err, pebble.ErrDBDoesNotExist):
		return fmt.Errorf("%w (%w)", ErrLogMissing, err)
	case errors.Is(err, syscall.EAGAIN), strings.Contains(text, "lock held by current process"):
		return fmt.Errorf("%w (%w)", ErrLogInUse, err)
	case strings.Contains(text, "unknown format major version"):
		return fmt.Errorf("%w (%w)", ErrLogNewerFormat, err)
	case pebble.IsCorruptionError(err), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w; %s", ErrLogCorrupt, err, EmptyDirectory)
	default:
		return err
	}
}

func (l *Log) pebbleOptions() *pebble.Options {
	// The health check is innermost: it is to see each operation, retried or
	// not. The freeze is outermost: it is for what is left after the retry.
	disk, health := vfs.WithDiskHealthChecks(l.opts.FS, max(l.opts.DiskSlowAfter, 0), nil, func(i vfs.DiskSlowInfo) {
		l.opts.Events(LogDiskSlow{Path: i.Path, Op: i.OpType.String(), Duration: i.Duration})
	})
	disk = vfs.OnDiskFull(disk, func() { l.opts.Events(LogDiskFull{}) })
	if l.opts.Marks != nil {
		l.guard = guardLog(disk, l.opts.Dir, l.opts.Marks)
		disk = l.guard
	}
	l.health, l.freeze = health, &logFreezeFS{FS: disk, fail: l.fail}
	return &pebble.Options{
		FS:                 l.freeze,
		FormatMajorVersion: pebbleFormat,
		ErrorIfNotExists:   l.opts.MustExist,
		Cache:              pebble.NewCache(l.opts.CacheBytes),
		Logger:             logPebbleLogger{l},

		MemTableSize:                l.opts.MemTableBytes,
		MemTableStopWritesThreshold: logMemTableStop,
		MaxOpenFiles:                l.opts.MaxOpenFiles,
		FlushDelayDeleteRange:       logFlushDeletions,
		// What reaches L0 waits there for the deletion that comes next: a
		// compaction of live entries is work for nothing. Reads that scan many
		// L0 files are rare here, so the thresholds are far from Pebble's 4
		// and 12.
		L0CompactionThreshold: 8,
		L0StopWritesThreshold: 64,
		LBaseMaxBytes:         int64(scaled(l.opts.FS, l.opts.Dir, logBaseBytes, logBaseShare, leastBase)),
		// Each commit syncs the WAL, so there is nothing to smooth in between.
		// Pebble preallocates WAL files to 110 % of the memtable, and recycles
		// up to MemTableStopWritesThreshold+1 of them: a sync then seldom has
		// to write the file's metadata too.
		WALBytesPerSync: 0,
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { l.opts.Events(LogBackgroundError{Err: err}) },
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				l.corrupt(fmt.Errorf("%s: %w", i.Path, i.Details))
			},
			WriteStallBegin: func(i pebble.WriteStallBeginInfo) { l.opts.Events(LogWriteStall{Reason: i.Reason}) },
			WriteStallEnd:   func() { l.opts.Events(LogWriteStall{Ended: true}) },
			FlushEnd: func(i pebble.FlushInfo) {
				if err := l.flushes.ended(i.Err); err != nil {
					l.fail(err)
				}
			},
			LowDiskSpace: func(i pebble.LowDiskSpaceInfo) {
				l.opts.Events(LogLowDiskSpace{AvailableBytes: i.AvailBytes, TotalBytes: i.TotalBytes, PercentFree: i.PercentThreshold})
			},
		},
	}
}

// checkNode stamps a new database and refuses another node's.
func (l *Log) checkNode() error {
	got, closer, err := l.db.Get(logNodeKey)
	switch {
	case err == nil:
		stamp := string(got)
		if err := closer.Close(); err != nil {
			return err
		}
		if stamp == "" {
			return fmt.Errorf("%w: empty node id record", ErrLogCorrupt)
		}
		if stamp[0] > logNodeFormat {
			return fmt.Errorf("%w: %d, known up to %d", ErrLogNewerFormat, stamp[0], logNodeFormat)
		}
		if node := stamp[1:]; node != string(l.opts.NodeID) {
			return fmt.Errorf("%w: it is %q, this is %q", ErrLogOtherNode, node, l.opts.NodeID)
		}
		return nil
	case !errors.Is(err, pebble.ErrNotFound):
		return err
	case l.opts.MustExist:
		return ErrLogMissing
	}
	it, err := l.db.NewIter(nil)
	if err != nil {
		return err
	}
	occupied := it.First()
	if err := it.Close(); err != nil {
		return err
	}
	if occupied {
		return fmt.Errorf("%w: records without a node id", ErrLogCorrupt)
	}
	stamp := append([]byte{logNodeFormat}, l.opts.NodeID...)
	return l.db.Set(logNodeKey, stamp, pebble.Sync)
}

// checkMark compares the last record of the database that was opened with the mark, and
// raises the mark to it: all that was replayed is durable by now.
func (l *Log) checkMark() error {
	if l.opts.Marks == nil {
		return nil
	}
	next, err := l.nextRecord(pebble.NoSync)
	if err != nil {
		return err
	}
	if mark := l.opts.Marks.database(l.guard.of).synced; next <= mark {
		return l.guard.lost("%s ends below record %d, it was synced up to record %d", l.opts.Dir, next, mark)
	}
	return l.opts.Marks.raiseSynced(next - 1)
}

// nextRecord is the number that Pebble gives to the next record. To ask for it takes none.
func (l *Log) nextRecord(o *pebble.WriteOptions) (uint64, error) {
	b := l.db.NewBatch()
	if err := b.LogData(nil, nil); err != nil {
		return 0, errors.Join(err, b.Close())
	}
	if err := l.db.Apply(b, o); err != nil {
		return 0, errors.Join(err, b.Close())
	}
	return uint64(b.SeqNum()), b.Close()
}

// mark says that b is synced; only then may it be acknowledged.
func (l *Log) mark(b *pebble.Batch) error {
	next := uint64(b.SeqNum()) + uint64(b.Count())
	if b.SeqNum() == 0 { // Pebble has kept the contents, as it does of large batches
		var err error
		if next, err = l.nextRecord(pebble.Sync); err != nil {
			return err
		}
	}
	return l.opts.Marks.raiseSynced(next - 1)
}

// Close closes the database. Calls in flight end first; later ones fail with
// [ErrLogClosed]. A failed database can not be closed: its failure is returned.
func (l *Log) Close() error {
	l.use.Lock()
	defer l.use.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if err := l.Failure(); err != nil {
		return err // its insides hang, see logFreezeFS
	}
	saved := l.tentative.close()
	if err := l.Failure(); err != nil {
		return err
	}
	return errors.Join(saved, l.db.Close(), l.health.Close())
}

// Failure is why the database failed, or nil.
func (l *Log) Failure() error {
	select {
	case <-l.failed:
		return l.failure
	default:
		return nil
	}
}

func (l *Log) fail(err error) {
	l.failOnce.Do(func() {
		l.failure = fmt.Errorf("%w: %w", ErrLogFailed, err)
		close(l.failed)
		l.opts.Events(LogFailed{Err: l.failure})
	})
}

// corrupt fails the database for something that can not be read: votes and entries are
// in it, and nobody can say which.
func (l *Log) corrupt(err error) {
	text, _, _ := strings.Cut(err.Error(), "\n") // Pebble appends lines of its own
	l.fail(fmt.Errorf("%w: %s; %s", ErrLogCorrupt, text, EmptyDirectory))
}

// readFailed fails the database for the error of a read, unless that only says that
// something is not there.
func (l *Log) readFailed(err error) error {
	if err != nil && !errors.Is(err, ErrLogNotFound) && l.Failure() == nil {
		l.corrupt(err)
	}
	if failure := l.Failure(); err != nil && failure != nil {
		return failure
	}
	return err
}

// enter begins a call; leave ends it.
func (l *Log) enter() error {
	l.use.RLock()
	if l.closed {
		l.use.RUnlock()
		return ErrLogClosed
	}
	if err := l.Failure(); err != nil {
		l.use.RUnlock()
		return err
	}
	return nil
}

func (l *Log) leave() { l.use.RUnlock() }

// commit writes b. Pebble lets concurrent commits share a sync.
//
// Each commit runs on a goroutine of its own, which the caller leaves behind
// once the database has failed (see logFreezeFS); b is then not used again.
func (l *Log) commit(b *pebble.Batch, o *pebble.WriteOptions) error {
	if fault.On(fault.AckBeforeFsync) {
		o = pebble.NoSync
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				l.fail(fmt.Errorf("commit panicked: %v", r))
			}
		}()
		err := l.db.Apply(b, o)
		if err == nil && o.Sync && l.opts.Marks != nil {
			err = l.mark(b)
		}
		if err != nil {
			l.fail(err)
		}
	}()
	select {
	case <-done:
	case <-l.failed:
		return l.failure
	}
	if err := l.Failure(); err != nil {
		return err
	}
	return b.Close()
}

// Replica opens the log of r, and makes it if it is not there. It writes
// nothing by itself. One ReplicaLog stands for r while the database is open.
func (l *Log) Replica(r Replica) (*ReplicaLog, error) {
	if err := l.enter(); err != nil {
		return nil, err
	}
	defer l.leave()
	return l.replica(r)
}

func (l *Log) replica(r Replica) (*ReplicaLog, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rl := l.replicas[r]; rl != nil {
		return rl, rl.usable()
	}
	_, closer, err := l.db.Get(logDestroyedKey(r))
	if err == nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrLogDestroyed, r), closer.Close())
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return nil, err
	}
	rl := &ReplicaLog{log: l, replica: r, waiting: map[uint64]time.Time{}}
	if err := rl.load(); err != nil {
		return nil, err
	}
	l.replicas[r] = rl
	return rl, nil
}

// Replicas lists, in order, those that have any record. Destroyed ones have none.
func (l *Log) Replicas() ([]Replica, error) {
	if err := l.enter(); err != nil {
		return nil, err
	}
	defer l.leave()
	it, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{logSpaceReplica},
		UpperBound: []byte{logSpaceReplica + 1},
	})
	if err != nil {
		return nil, err
	}
	var found []Replica
	for ok := it.First(); ok; {
		r, err := logParseReplica(it.Key())
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		found = append(found, r)
		ok = it.SeekGE(logReplicaEnd(r))
	}
	return found, it.Close()
}

// Destroy removes all that r has and marks the generation, in one synced
// batch: it is never opened again. To destroy what is not there marks it too;
// to destroy twice is no error.
func (l *Log) Destroy(r Replica) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.leave()
	rl, err := l.replica(r)
	if errors.Is(err, ErrLogDestroyed) {
		return nil
	}
	if err != nil {
		return err
	}
	rl.write.Lock()
	defer rl.write.Unlock()
	if rl.destroyed.Load() {
		return nil
	}
	b := l.db.NewBatch()
	if err := b.DeleteRange(logKey(logSpaceReplica, r, 0), logReplicaEnd(r), nil); err != nil {
		return errors.Join(err, b.Close())
	}
	if err := b.Set(logDestroyedKey(r), []byte{logNodeFormat}, nil); err != nil {
		return errors.Join(err, b.Close())
	}
	if err := l.commit(b, pebble.Sync); err != nil {
		return err
	}
	rl.destroyed.Store(true)
	rl.setBounds(0, 0)
	return nil
}

// LogMetrics are figures of the database as a whole.
type LogMetrics struct {
	DiskBytes, WALBytes, MemTableBytes uint64
	WALBytesWritten                    uint64 // since it was opened
	Flushes, Compactions               int64
	L0Files, TableFiles                int64
	CacheBytes, CacheHits, CacheMisses int64
	CompactionDebtBytes                uint64
	ReadAmplification                  int
}

// Metrics reads the figures.
func (l *Log) Metrics() (LogMetrics, error) {
	if err := l.enter(); err != nil {
		return LogMetrics{}, err
	}
	defer l.leave()
	m := l.db.Metrics()
	return LogMetrics{
		DiskBytes: m.DiskSpaceUsage(), WALBytes: m.WAL.Size, MemTableBytes: m.MemTable.Size,
		WALBytesWritten: m.WAL.BytesWritten,
		Flushes:         m.Flush.Count, Compactions: m.Compact.Count, L0Files: m.Levels[0].TablesCount,
		TableFiles: m.Total().TablesCount, CacheBytes: m.BlockCache.Size, CacheHits: m.BlockCache.Hits, CacheMisses: m.BlockCache.Misses,
		CompactionDebtBytes: m.Compact.EstimatedDebt, ReadAmplification: m.ReadAmp(),
	}, nil
}

// logPebbleLogger turns Pebble's last words into a failure.
type logPebbleLogger struct{ l *Log }

func (logPebbleLogger) Infof(string, ...any)  {}
func (logPebbleLogger) Errorf(string, ...any) {}

// Fatalf does not return, as Pebble expects of it: what comes behind its calls
// was not written to be reached.
func (p logPebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	if !p.l.freeze.armed.Load() {
		panic(err)
	}
	p.l.fail(err)
	select {}
}
