package identity

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
)

const (
	fileName = "node.json"
	tempName = "node.json.tmp"
	lockName = "LOCK"
	// lostAndFound is made by mkfs at the root of a volume; it is nobody's data.
	lostAndFound = "lost+found"

	// suffixLength is how many random characters a node id has: 36^4 is 1.7
	// million, for the few lives that one node name has in one cluster.
	suffixLength   = 4
	suffixAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
)

var (
	// ErrInUse says that another process (or this one) has the directory open.
	ErrInUse = errors.New("data directory is in use")
	// ErrIdentityLost says that the directory holds files but no node.json: it is
	// somebody else's, or its identity is lost and its promises with it.
	ErrIdentityLost = errors.New("data directory is not empty, and its node.json is missing")
	// ErrOtherNode says that the directory belongs to a node of another name.
	ErrOtherNode = errors.New("data directory belongs to another node")
	// ErrOtherCluster says that the directory belongs to another cluster already.
	ErrOtherCluster = errors.New("data directory belongs to another cluster")
	// ErrRefused says that the cluster refuses the directory, now and at every
	// later start. The error that wraps it is a *[Refusal].
	ErrRefused = errors.New("the cluster refuses this data directory")
	// ErrClosed says that the Identity was closed.
	ErrClosed = errors.New("identity is closed")
)

// Identity is an open data directory's record of who its node is. All methods
// are safe for concurrent use.
type Identity struct {
	fs   vfs.FS
	dir  string
	lock io.Closer

	mu     sync.Mutex
	record record
	// broken is the first failed write: what the disk holds then is unknown, and
	// only a new Open can tell.
	broken error
	closed bool
}

// Open takes the data directory for the node of that name, making it and its
// identity if it is not there. Errors: ErrInUse,
// ErrNewerFormat, ErrCorrupt, ErrIdentityLost, ErrOtherNode, ErrRefused, or the
// disk's.
func Open(fsys vfs.FS, dir, name string) (*Identity, error) {
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("node name %q: 1 to 32 of a-z, 0-9 and inner dashes", name)
	}
	if err := makeDir(fsys, dir); err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	lock, err := fsys.Lock(fsys.PathJoin(dir, lockName))
	if err != nil {
		if isHeld(err) {
			return nil, fmt.Errorf("%w: %s: another process holds its LOCK", ErrInUse, dir)
		}
		return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
	}
	id := &Identity{fs: fsys, dir: dir, lock: lock}
	if err := id.take(name); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return id, nil
}

// take reads or makes the record.
func (id *Identity) take(name string) error {
	found, ok, err := id.read()
	switch {
	case err != nil:
		return err
	case ok && found.name() != name:
		return fmt.Errorf("%w: %s belongs to %s, this node is named %s", ErrOtherNode, id.dir, found.NodeID, name)
	case ok && found.Refused != nil:
		return found.Refused
	case ok:
		id.record = found
		return nil
	}
	if err := id.write(record{Format: Format, NodeID: newNodeID(name), Created: time.Now().UTC().Truncate(time.Second)}); err != nil {
		return fmt.Errorf("write identity in %s: %w", id.dir, err)
	}
	return nil
}

// NodeID is the node's id for the life of this directory.
func (id *Identity) NodeID() partition.NodeID { return id.current().NodeID }

// ClusterID is the cluster that the node belongs to, empty while it belongs to
// none.
func (id *Identity) ClusterID() string { return id.current().Cluster }

// Initialised says whether the node belongs to a cluster.
func (id *Identity) Initialised() bool { return id.current().Cluster != "" }

// Last is the last start that the cluster was told of, zero if there is none, and
// whether the cluster confirmed it. Until it has, the node cannot know whether
// the cluster counts that start or an earlier one.
func (id *Identity) Last() (last Start, confirmed bool) {
	switch r := id.current(); {
	case r.Attempt != nil:
		return *r.Attempt, false
	case r.Registered != nil:
		return *r.Registered, true
	}
	return Start{}, true
}

// Registered is the last start that the cluster confirmed, zero if there is none.
func (id *Identity) Registered() Start {
	if r := id.current(); r.Registered != nil {
		return *r.Registered
	}
	return Start{}
}

// NextStart is the number of the first start that this directory has not used. It
// rises with each Attempt only: a start that the cluster is not told of uses none,
// so an older copy of the directory cannot pass the number that the cluster knows
// by being started often.
func (id *Identity) NextStart() uint64 { return id.current().Starts + 1 }

// Attempt stores, before the cluster is told of it, that this start is about to be
// registered. Only one start at a time can be without an answer: an attempt while
// another one is not confirmed is an error, as is a number other than NextStart.
func (id *Identity) Attempt(s Start) error {
	return id.change(func(next *record) error {
		switch {
		case next.Attempt != nil && *next.Attempt == s:
			return nil
		case next.Attempt != nil:
			return fmt.Errorf("identity in %s: start %d is not confirmed yet", id.dir, next.Attempt.Number)
		case s.Number != next.Starts+1 || s.Incarnation == 0:
			return fmt.Errorf("identity in %s: start %d cannot follow start %d", id.dir, s.Number, next.Starts)
		}
		next.Attempt, next.Starts = &s, s.Number
		return nil
	})
}

// Confirm stores that a cluster counts the attempted start, and that the node is a
// member of that cluster, as SetCluster does.
func (id *Identity) Confirm(s Start, cluster string) error {
	return id.change(func(next *record) error {
		switch {
		case next.Attempt == nil && next.Registered != nil && *next.Registered == s:
		case next.Attempt != nil && *next.Attempt == s:
			next.Registered, next.Attempt = &s, nil
		default:
			return fmt.Errorf("identity in %s: start %d was never attempted", id.dir, s.Number)
		}
		return next.join(cluster)
	})
}

// Created is when the node id was made, in UTC, by the machine's clock.
func (id *Identity) Created() time.Time { return id.current().Created }

// BindLabel says under which cluster name (the gossip label) the node runs. The
// first one is kept, durably; another one later is ErrOtherCluster: the node
// would find nobody of its cluster, and go on alone.
func (id *Identity) BindLabel(label string) error {
	return id.change(func(next *record) error {
		if next.Label != "" && next.Label != label {
			return fmt.Errorf("%w: %s belongs to a cluster named %q, not %q", ErrOtherCluster, id.dir, next.Label, label)
		}
		next.Label = label
		return nil
	})
}

// SetCluster makes the node a member of that cluster for good; it is durable when
// SetCluster returns. Setting the same again does nothing; another one is
// ErrOtherCluster. After a failed write every later one fails too, until the
// directory is opened again. A cluster id is 1 to 64 of a-z, 0-9 and dashes, not
// starting with a dash.
func (id *Identity) SetCluster(cluster string) error {
	return id.change(func(next *record) error { return next.join(cluster) })
}

// Refuse stores that the cluster refuses this directory, so that every later Open
// ends with the same error; the first refusal is kept. It returns the *[Refusal]
// for the caller to stop with, joined with the disk's error if it could not be
// stored. by is the node that reported it; the reason is cut to 512 bytes.
func (id *Identity) Refuse(by partition.NodeID, reason string) error {
	if len(reason) > maxReasonBytes {
		reason = reason[:maxReasonBytes]
	}
	refusal := &Refusal{Reason: strings.ToValidUTF8(reason, "?"), By: by, At: time.Now().UTC().Truncate(time.Second)}
	err := id.change(func(next *record) error {
		if next.Refused != nil {
			refusal = next.Refused
		}
		next.Refused = refusal
		return nil
	})
	if err != nil {
		return errors.Join(refusal, fmt.Errorf("the refusal could not be stored: %w", err))
	}
	return refusal
}

// HasMarks says whether the directory has a file "marks": from then on a missing one is
// a loss.
func (id *Identity) HasMarks() bool { return id.current().Marks }

// SetHasMarks says that the directory has a file "marks", durably and for good.
func (id *Identity) SetHasMarks() error {
	return id.change(func(next *record) error {
		next.Marks = true
		return nil
	})
}

// change stores the record as edit leaves it, unless edit fails or changes
// nothing. After a failed write the disk holds either record, so every later
// change fails until the directory is opened again.
func (id *Identity) change(edit func(*record) error) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	switch {
	case id.closed:
		return ErrClosed
	case id.broken != nil:
		return fmt.Errorf("identity in %s: an earlier write failed: %w", id.dir, id.broken)
	}
	next := id.record
	if err := edit(&next); err != nil || next == id.record {
		return err
	}
	if err := id.write(next); err != nil {
		id.broken = err
		return fmt.Errorf("write identity in %s: %w", id.dir, err)
	}
	return nil
}

// Close lets the directory go. A second Close does nothing.
func (id *Identity) Close() error {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.closed {
		return nil
	}
	id.closed = true
	return id.lock.Close()
}

func (id *Identity) current() record {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.record
}

// read returns the record on disk, if there is one.
func (id *Identity) read() (record, bool, error) {
	file, err := id.fs.Open(id.fs.PathJoin(id.dir, fileName))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, false, id.checkUnused()
	}
	if err != nil {
		return record{}, false, fmt.Errorf("read identity in %s: %w", id.dir, err)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxRecordBytes+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return record{}, false, fmt.Errorf("read identity in %s: %w", id.dir, err)
	}
	if len(data) > maxRecordBytes {
		return record{}, false, fmt.Errorf("%s: %w: over %d bytes", id.dir, ErrCorrupt, maxRecordBytes)
	}
	r, err := decodeRecord(data)
	if err != nil {
		return record{}, false, fmt.Errorf("%s: %w", id.dir, err)
	}
	return r, true, nil
}

// checkUnused refuses a directory that holds anything but what an interrupted
// first start leaves.
func (id *Identity) checkUnused() error {
	names, err := id.fs.List(id.dir)
	if err != nil {
		return fmt.Errorf("list data directory %s: %w", id.dir, err)
	}
	for _, name := range names {
		switch name {
		case lockName, tempName, lostAndFound:
		default:
			return fmt.Errorf("%w: %s holds %s; use an empty directory, or bring node.json back",
				ErrIdentityLost, id.dir, name)
		}
	}
	return nil
}

// write replaces node.json durably, and the record in memory with it.
func (id *Identity) write(next record) error {
	data, err := next.encode()
	if err != nil {
		return err
	}
	temp := id.fs.PathJoin(id.dir, tempName)
	file, err := id.fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := id.fs.Rename(temp, id.fs.PathJoin(id.dir, fileName)); err != nil {
		return err
	}
	if err := syncDir(id.fs, id.dir); err != nil {
		return err
	}
	id.record = next
	return nil
}

// makeDir makes the directory and those above it, each durable in its parent.
func makeDir(fsys vfs.FS, dir string) error {
	var made []string
	for at := dir; ; at = fsys.PathDir(at) {
		if _, err := fsys.Stat(at); err == nil || fsys.PathDir(at) == at {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		made = append(made, at)
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, at := range made {
		if err := syncDir(fsys, fsys.PathDir(at)); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(fsys vfs.FS, dir string) error {
	opened, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(opened.Sync(), opened.Close())
}

// isHeld tells a lock that somebody holds from a disk that fails. Pebble's own
// lock within one process has no error value, only this text.
func isHeld(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || err.Error() == "lock held by current process"
}

func newNodeID(name string) partition.NodeID {
	suffix := make([]byte, suffixLength)
	for i := range suffix {
		suffix[i] = suffixAlphabet[randomBelow(len(suffixAlphabet))]
	}
	return partition.NodeID(name + "-" + string(suffix))
}

// randomBelow is uniform: bytes that would favour the first values are thrown
// away. crypto/rand never fails (it ends the program instead).
func randomBelow(n int) int {
	limit := 256 - 256%n
	for {
		var b [1]byte
		rand.Read(b[:])
		if int(b[0]) < limit {
			return int(b[0]) % n
		}
	}
}
