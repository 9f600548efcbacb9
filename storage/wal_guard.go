package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"
)

// walGuard stands between Pebble and its files. It keeps the marks of the write-ahead
// logs and of the MANIFEST, and compares both with the marks when Pebble opens them.
//
// Pebble by itself takes a write-ahead log, or a MANIFEST, that breaks off for one that
// a crash has torn, and goes on without the rest. It does not know that a write-ahead
// log is missing, or empty, at all. The guard refuses such files before Pebble has
// changed anything in the directory.
//
// What it relies on: Pebble numbers all records of a database one behind the other, in
// the order in which it writes them; tables that come from elsewhere take numbers too,
// which only the state database has. Pebble closes a write-ahead log, with a trailer,
// before it begins the next one, and gives one up only after the tables that replace it
// are durable.
type walGuard struct {
	vfs.FS
	dir   string
	marks *Marks
	of    func(*marksRecord) *databaseMarks

	// loss is what a contradiction means for the database.
	loss error
	// replayed says that what is missing at the end is written again from elsewhere: only
	// a gap is a contradiction.
	replayed bool

	mu      sync.Mutex
	opened  bool         // the database is open: nothing is compared any more
	last    uint64       // the last write-ahead log on disk when opening began
	missing []uint64     // those that should be on disk and are not
	found   bool         // the directory has a MANIFEST
	read    []walContent // the write-ahead logs that Pebble has opened to replay, in order
	finding error        // the first contradiction
	synced  manifestMark // the MANIFEST that was synced last
	moved   uint64       // the MANIFEST that becomes current when the directory is synced; or 0
}

type manifestMark struct{ number, bytes uint64 }

// walContent is what can be read of a write-ahead log: its batches have the sequence
// numbers from first up to end, which is not included. Both are 0 if it has none. It is
// closed if it ends with a trailer.
type walContent struct {
	number, first, end uint64
	closed             bool
}

// guardLog guards the log database.
func guardLog(fsys vfs.FS, dir string, marks *Marks) *walGuard {
	return &walGuard{FS: fsys, dir: dir, marks: marks, loss: ErrLogLost, of: func(r *marksRecord) *databaseMarks { return &r.log }}
}

// guardState guards the state database, which is not synced on the way: what it lacks
// at its end, the Raft logs bring again.
func guardState(fsys vfs.FS, dir string, marks *Marks) *walGuard {
	return &walGuard{FS: fsys, dir: dir, marks: marks, loss: ErrStateLost, replayed: true, of: func(r *marksRecord) *databaseMarks { return &r.state }}
}

// done ends the comparing; the database is open, or has failed to open with err. It
// returns what was found, or else err.
func (g *walGuard) done(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = true
	switch {
	case err != nil && g.finding != nil:
		return g.finding
	case err != nil || !g.replayed || g.found && len(g.missing) == 0:
		return err
	}
	// What is missing at the end comes again under other names: it is missed no more.
	return g.marks.changeDurably(func(r *marksRecord) bool {
		d := g.of(r)
		d.wals = slices.DeleteFunc(d.wals, func(w walMark) bool {
			_, err := g.FS.Stat(g.PathJoin(g.dir, walName(w.number)))
			return errors.Is(err, fs.ErrNotExist)
		})
		return true
	})
}

func walNumber(name string) (uint64, bool) {
	number, _, ok := wal.ParseLogFilename(name)
	return uint64(number), ok
}

func manifestNumber(name string) (n uint64, ok bool) {
	rest, ok := strings.CutPrefix(name, "MANIFEST-")
	if !ok {
		return 0, false
	}
	_, err := fmt.Sscanf(rest, "%d", &n)
	return n, err == nil
}

// Open compares what Pebble reads while it opens the database.
func (g *walGuard) Open(name string, options ...vfs.OpenOption) (vfs.File, error) {
	if err := g.compare(name); err != nil {
		return nil, err
	}
	return g.FS.Open(name, options...)
}

func (g *walGuard) compare(path string) (err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened {
		return nil
	}
	name, marks := g.PathBase(path), g.marks.database(g.of)
	if number, ok := manifestNumber(name); ok {
		g.found = true
		err = errors.Join(g.compareManifest(path, number, &marks), g.comparePresent(&marks))
	} else if number, ok := walNumber(name); ok {
		err = g.compareWAL(path, number, &marks)
	}
	if err != nil && g.finding == nil {
		g.finding = err
	}
	return err
}

// lost says what is lost, and what is to do.
func (g *walGuard) lost(format string, args ...any) error {
	return fmt.Errorf("%w: %s; %s", g.loss, fmt.Sprintf(format, args...), EmptyDirectory)
}

// compareManifest refuses a MANIFEST that is older than the one known, or shorter: it
// would leave tables out whose write-ahead logs are gone.
func (g *walGuard) compareManifest(path string, number uint64, marks *databaseMarks) error {
	switch {
	case number > marks.manifest: // Pebble begins each with all that holds, durably
		return nil
	case number < marks.manifest:
		return g.lost("%s is the list of tables in use, MANIFEST-%06d was", path, marks.manifest)
	}
	file, err := g.FS.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	reader := newRecordReader(file, 0)
	var end int64
	for {
		r, err := reader.Next()
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		if isRecordEnd(err) {
			break
		}
		if err != nil {
			return err
		}
		end = reader.Offset()
	}
	if uint64(end) < marks.manifestBytes {
		return g.lost("%s can be read up to byte %d, it had been written up to byte %d", path, end, marks.manifestBytes)
	}
	return nil
}

// comparePresent refuses a directory in which a write-ahead log is missing that Pebble
// has not given up.
func (g *walGuard) comparePresent(marks *databaseMarks) error {
	logs, err := wal.Scan(wal.Dir{FS: g.FS, Dirname: g.dir})
	if err != nil {
		return err
	}
	if n := len(logs); n > 0 {
		g.last = uint64(logs[n-1].Num)
	}
	for _, w := range marks.wals {
		if _, there := logs.Get(wal.NumWAL(w.number)); there || w.first == 0 {
			continue
		}
		if g.missing = append(g.missing, w.number); !g.replayed {
			return g.lost("%s is missing, it held records from number %d on", g.PathJoin(g.dir, walName(w.number)), w.first)
		}
	}
	return nil
}

func walName(number uint64) string { return fmt.Sprintf("%06d.log", number) }

// compareWAL refuses a write-ahead log that does not begin where it did, or not where
// the one before it ends, and the last one if it does not hold all that was synced.
func (g *walGuard) compareWAL(path string, number uint64, marks *databaseMarks) error {
	content, err := g.readWAL(path, number)
	if err != nil {
		return err
	}
	var before uint64 // where the ones before end
	for _, r := range g.read {
		before = max(before, r.end)
	}
	g.read = append(g.read, content)
	if content.first == 0 && g.replayed {
		return nil // nothing is read on behind what may be missing here
	}
	known := slices.IndexFunc(marks.wals, func(w walMark) bool { return w.number == number })
	switch {
	case known >= 0 && marks.wals[known].first != 0 && content.first != marks.wals[known].first:
		return g.lost("%s held records from number %d on, which can not be read", path, marks.wals[known].first)
	case g.replayed && len(g.missing) > 0 && g.missing[0] < number:
		return g.lost("%s is missing, and %s holds what came after it", walName(g.missing[0]), path)
	case g.replayed && slices.ContainsFunc(g.read, func(r walContent) bool { return !r.closed && r.number != number }):
		return g.lost("what is before %s does not end as it was closed", path)
	case !g.replayed && content.first != 0 && before != 0 && content.first != before:
		return g.lost("%s begins with record %d, what is before it ends below record %d", path, content.first, before)
	case number != g.last || g.replayed:
		return nil
	}
	before = max(before, content.end)
	for _, w := range marks.wals {
		// The log that holds the last synced record may have been given up since: then
		// it is not among those that are replayed.
		if w.first != 0 && w.first <= marks.synced && w.number >= g.read[0].number && before <= marks.synced {
			return g.lost("the write-ahead log in %s can be read below record %d, it was synced up to record %d", g.dir, before, marks.synced)
		}
	}
	return nil
}

// walTrailerBytes is the length of the trailer that closes a write-ahead log.
const walTrailerBytes = 11

// readWAL reads the numbers of the batches of a write-ahead log. What can not be read
// ends it: Pebble says so by itself if there is more behind.
func (g *walGuard) readWAL(path string, number uint64) (walContent, error) {
	file, err := g.FS.Open(path)
	if err != nil {
		return walContent{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return walContent{}, err
	}
	content := walContent{number: number}
	reader := newRecordReader(file, number)
	for {
		header, err := nextBatch(reader)
		switch {
		case isRecordEnd(err):
			content.closed = errors.Is(err, io.EOF) && info.Size()-reader.Offset() >= walTrailerBytes
			return content, nil
		case err != nil:
			return walContent{}, err
		}
		seq := uint64(header.SeqNum)
		if content.first != 0 && seq != content.end && !g.replayed {
			return walContent{}, g.lost("%s holds record %d behind record %d", path, seq, content.end-1)
		}
		if content.first == 0 {
			content.first = seq
		}
		content.end = seq + uint64(header.Count)
	}
}

// isRecordEnd says whether a file of records ends here, well or not.
func isRecordEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, record.ErrInvalidChunk) || errors.Is(err, record.ErrZeroedChunk) || errors.Is(err, record.ErrUnexpectedEOF)
}

// nextBatch reads the header of the next batch, and passes over the rest of it.
func nextBatch(reader *record.Reader) (batchrepr.Header, error) {
	r, header, err := beginBatch(reader)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	return header, err
}

// beginBatch reads the header of the next batch. A record that is no batch ends the file.
func beginBatch(reader *record.Reader) (rest io.Reader, header batchrepr.Header, err error) {
	if rest, err = reader.Next(); err != nil {
		return nil, header, err
	}
	var b [batchrepr.HeaderLen]byte
	if _, err = io.ReadFull(rest, b[:]); err == nil {
		header, _ = batchrepr.ReadHeader(b[:])
	} else if errors.Is(err, io.ErrUnexpectedEOF) {
		err = record.ErrInvalidChunk
	}
	return rest, header, err
}

// newRecordReader reads a file of records. Pebble's type for the number of a file has
// no public name.
func newRecordReader(r io.Reader, number uint64) *record.Reader {
	return makeReader(record.NewReader, r, number)
}

func makeReader[N ~uint64](make func(io.Reader, N) *record.Reader, r io.Reader, number uint64) *record.Reader {
	return make(r, N(number))
}

// Create, ReuseForWrite and Remove keep the list of write-ahead logs. A log leaves the
// list, durably, before it goes, and stands in it before anything in it is acknowledged.
func (g *walGuard) Create(path string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := g.FS.Create(path, c)
	if err != nil {
		return nil, err
	}
	name := g.PathBase(path)
	if number, ok := walNumber(name); ok {
		return g.begun(file, number)
	}
	if number, ok := manifestNumber(name); ok {
		return &guardedManifest{File: file, guard: g, number: number}, nil
	}
	if rest, ok := strings.CutPrefix(name, "marker.manifest."); ok {
		// marker.manifest.<count>.MANIFEST-<number> makes that one the current one.
		if _, current, ok := strings.Cut(rest, "."); ok {
			if number, ok := manifestNumber(current); ok {
				g.move(number)
			}
		}
	}
	return file, nil
}

func (g *walGuard) ReuseForWrite(oldPath, newPath string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := g.giveUp(oldPath); err != nil {
		return nil, err
	}
	file, err := g.FS.ReuseForWrite(oldPath, newPath, c)
	if err != nil {
		return nil, err
	}
	if number, ok := walNumber(g.PathBase(newPath)); ok {
		return g.begun(file, number)
	}
	return file, nil
}

func (g *walGuard) Remove(path string) error {
	if err := g.giveUp(path); err != nil {
		return err
	}
	return g.FS.Remove(path)
}

func (g *walGuard) giveUp(path string) error {
	number, ok := walNumber(g.PathBase(path))
	if !ok {
		return nil
	}
	return g.marks.changeDurably(func(r *marksRecord) bool {
		d := g.of(r)
		before := len(d.wals)
		d.wals = slices.DeleteFunc(d.wals, func(w walMark) bool { return w.number == number })
		return len(d.wals) != before
	})
}

func (g *walGuard) begun(file vfs.File, number uint64) (vfs.File, error) {
	err := g.marks.change(func(r *marksRecord) bool {
		d := g.of(r)
		d.wals = append(slices.DeleteFunc(d.wals, func(w walMark) bool { return w.number == number }), walMark{number: number})
		return true
	})
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &guardedWAL{File: file, guard: g, number: number}, nil
}

// guardedWAL notes the number of the first record.
type guardedWAL struct {
	vfs.File
	guard  *walGuard
	number uint64
	begun  bool
}

// Write looks at the first record before it is written, and so before it is synced and
// acknowledged. Pebble writes whole chunks, and the first one is in the first write.
func (f *guardedWAL) Write(p []byte) (int, error) {
	if !f.begun && len(p) > 0 {
		_, header, err := beginBatch(newRecordReader(bytes.NewReader(p), f.number))
		switch {
		case err == nil:
			f.guard.marks.note(func(r *marksRecord) {
				for i, w := range f.guard.of(r).wals {
					if w.number == f.number {
						f.guard.of(r).wals[i].first = uint64(header.SeqNum)
					}
				}
			})
		case !errors.Is(err, io.EOF): // that is a log closed without a record
			return 0, fmt.Errorf("the first record of %s does not parse: %w", walName(f.number), err)
		}
		f.begun = true
	}
	return f.File.Write(p)
}

// guardedManifest counts what is synced of a MANIFEST.
type guardedManifest struct {
	vfs.File
	guard  *walGuard
	number uint64
	bytes  uint64
}

func (f *guardedManifest) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.bytes += uint64(n)
	return n, err
}

func (f *guardedManifest) Sync() error {
	written := f.bytes // Pebble has one writer
	if err := f.File.Sync(); err != nil {
		return err
	}
	f.guard.mu.Lock()
	f.guard.synced = manifestMark{f.number, written}
	f.guard.mu.Unlock()
	return f.guard.marks.change(func(r *marksRecord) bool {
		d := f.guard.of(r)
		if d.manifest != f.number || d.manifestBytes >= written {
			return false
		}
		d.manifestBytes = written
		return true
	})
}

func (g *walGuard) move(number uint64) {
	g.mu.Lock()
	g.moved = number
	g.mu.Unlock()
}

// OpenDir sees the directory synced: then the MANIFEST that Pebble has moved to is the
// current one for good.
func (g *walGuard) OpenDir(path string) (vfs.File, error) {
	file, err := g.FS.OpenDir(path)
	if err != nil || path != g.dir {
		return file, err
	}
	return &guardedDir{File: file, guard: g}, nil
}

type guardedDir struct {
	vfs.File
	guard *walGuard
}

func (f *guardedDir) Sync() error {
	f.guard.mu.Lock()
	moved, synced := f.guard.moved, f.guard.synced
	f.guard.moved = 0
	f.guard.mu.Unlock()
	if err := f.File.Sync(); err != nil || moved == 0 {
		return err
	}
	return f.guard.marks.change(func(r *marksRecord) bool {
		d := f.guard.of(r)
		d.manifest, d.manifestBytes = moved, 0
		if synced.number == moved {
			d.manifestBytes = synced.bytes
		}
		return true
	})
}
