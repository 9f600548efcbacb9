package storage

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/capstan-kv/capstan/storage/hlc"
)

// ReplicaView is one replica as it was at one point in time, whatever is
// applied afterwards. It keeps old data on disk, and must be closed. One goroutine at a
// time.
//
// If the replica is replaced by a staged one, or destroyed, while the view is
// open, what it pinned is removed with the rest of the range. The view then
// fails with [ErrViewReplaced]; a stream or a run of scans that had begun
// before that keeps to the old state to its end. It never gives a mixture.
type ReplicaView struct {
	replica *ReplicaState
	applied position
	pinned  *pebble.Snapshot
	epoch   uint64
	scan    *pebble.Iterator // over the user keys; opened by the first Scan
	closed  bool
}

// errViewClosed is a caller's mistake, but one that a shutdown can provoke.
var errViewClosed = errors.New("the view is closed")

// View pins the replica as it is now.
func (r *ReplicaState) View() (*ReplicaView, error) {
	if err := r.state.enter(); err != nil {
		return nil, err
	}
	defer r.state.leave()
	return r.pin()
}

// pin is View for a caller that has entered the state.
func (r *ReplicaState) pin() (*ReplicaView, error) {
	s := r.state
	r.replacing.RLock()
	defer r.replacing.RUnlock()
	if r.destroyed.Load() {
		return nil, ErrReplicaDestroyed
	}
	v := &ReplicaView{replica: r, pinned: s.db.NewSnapshot(), epoch: r.epoch}
	applied, _, err := readApplied(v.pinned, r.prefix)
	if err != nil {
		return nil, errors.Join(r.damaged(err), v.pinned.Close())
	}
	v.applied = applied
	s.mu.Lock()
	s.views++
	s.mu.Unlock()
	return v, nil
}

// Applied is the last entry that the view holds.
func (v *ReplicaView) Applied() (index, term uint64) { return v.applied.index, v.applied.term }

// Close lets go of what the view pins. Closing twice is no error.
func (v *ReplicaView) Close() error {
	if v.closed {
		return nil
	}
	s := v.replica.state
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	v.closed = true
	if v.scan != nil {
		_ = v.scan.Close() // its errors were told by Scan
	}
	s.mu.Lock()
	s.views--
	s.mu.Unlock()
	return v.pinned.Close()
}

// iterate opens an iterator over what the view pins of [lower, upper). An open
// iterator keeps its data, also if the range is replaced afterwards; a new
// one is not given any more then. The caller has entered the state.
func (v *ReplicaView) iterate(lower, upper []byte) (*pebble.Iterator, error) {
	if v.closed {
		return nil, errViewClosed
	}
	r := v.replica
	r.replacing.RLock()
	defer r.replacing.RUnlock()
	if r.epoch != v.epoch {
		return nil, ErrViewReplaced
	}
	return v.pinned.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
}

// ScanOptions says what a scan reads: the keys from Start, inclusive, to End,
// exclusive; nil is no bound. (For a prefix, End is [PrefixEnd] of it.)
type ScanOptions struct {
	Start, End []byte
	// Limit is the largest number of entries of the page; 0 means as many as
	// the page's other bounds allow.
	Limit int
	// Bytes ends a page once its keys and values take up so much; 0, or more than
	// 512 KiB, means 512 KiB.
	Bytes int
	// KeysOnly leaves the values out.
	KeysOnly bool
}

// ScanEntry is one live key. Its bytes are the caller's to keep.
type ScanEntry struct {
	Key, Value []byte
	Version    Version
}

// ScanPage is a part of a scan: the live entries in key order. If More is set,
// the next page begins at Next. A page with More may have fewer entries than the
// limit, even none.
type ScanPage struct {
	Entries []ScanEntry
	More    bool
	Next    []byte
	// Newest is the highest timestamp of what was passed, tombstones included.
	Newest hlc.Timestamp
}

const (
	// maxScanPageBytes ends a page: it goes out as one message, and the
	// largest single entry fits into one too.
	maxScanPageBytes = 512 << 10
	// maxScanPageSteps ends a page too, so that a long run of tombstones does
	// not hold up the caller's deadline.
	maxScanPageSteps = 16 << 10
)

// Scan reads one page. All pages of one view show the same point in time.
func (v *ReplicaView) Scan(o ScanOptions) (ScanPage, error) {
	if o.Limit < 0 {
		return ScanPage{}, fmt.Errorf("scan limit %d", o.Limit)
	}
	r := v.replica
	if err := r.state.enter(); err != nil {
		return ScanPage{}, err
	}
	defer r.state.leave()
	if v.closed {
		return ScanPage{}, errViewClosed
	}
	if v.scan == nil {
		it, err := v.iterate(r.users, prefixEnd(r.users))
		if err != nil {
			return ScanPage{}, err
		}
		v.scan = it
	}
	page, err := r.scanPage(v.scan, o)
	if err != nil {
		return ScanPage{}, fmt.Errorf("scanning %v: %w", r.replica, r.damaged(err))
	}
	return page, nil
}

func (o ScanOptions) pageBytes() int {
	if o.Bytes <= 0 {
		return maxScanPageBytes
	}
	return min(o.Bytes, maxScanPageBytes)
}

func (r *ReplicaState) scanPage(it *pebble.Iterator, o ScanOptions) (ScanPage, error) {
	var page ScanPage
	start := append(bytes.Clone(r.users), o.Start...)
	pageBytes, steps := 0, 0
	for ok := it.SeekGE(start); ok; ok = it.Next() {
		_, _, key, err := decodeReplicaKey(it.Key())
		if err != nil {
			return ScanPage{}, err
		}
		if len(o.End) > 0 && bytes.Compare(key, o.End) >= 0 {
			break
		}
		if o.Limit > 0 && len(page.Entries) == o.Limit || pageBytes >= o.pageBytes() || steps == maxScanPageSteps {
			page.More, page.Next = true, bytes.Clone(key)
			break
		}
		steps++
		record, err := it.ValueAndErr()
		if err != nil {
			return ScanPage{}, err
		}
		value, err := decodeValue(record, &r.nodes)
		if err != nil {
			return ScanPage{}, fmt.Errorf("key %q: %w", key, err)
		}
		page.Newest = max(page.Newest, value.Version.Timestamp)
		if value.Tombstone {
			continue
		}
		e := ScanEntry{Key: bytes.Clone(key), Version: value.Version}
		if !o.KeysOnly {
			e.Value = append([]byte{}, value.Bytes...)
		}
		page.Entries = append(page.Entries, e)
		pageBytes += len(e.Key) + len(e.Value)
	}
	return page, it.Error()
}

// Scan reads one page of the replica as it is now. For several pages of one
// point in time, scan a [ReplicaView].
func (r *ReplicaState) Scan(o ScanOptions) (ScanPage, error) {
	v, err := r.View()
	if err != nil {
		return ScanPage{}, err
	}
	page, err := v.Scan(o)
	return page, errors.Join(err, v.Close())
}
