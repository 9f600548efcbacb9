package storage

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// ErrStateDamaged means that the applied state of one replica cannot be read: a
// table of the database is damaged or missing, or a record is not what this
// program writes. That replica must serve nothing; others are not concerned.
var ErrStateDamaged = errors.New("the stored state is damaged")

// isDamage tells errors of a read that say that the stored bytes are gone. EIO
// is among them: a sector that cannot be read is as good as a wrong one.
func isDamage(err error) bool {
	return pebble.IsCorruptionError(err) || errors.Is(err, ErrCorrupt) || errors.Is(err, syscall.EIO)
}

// stateDamage marks the error of a read of stored state as ErrStateDamaged, if
// it is one, on one line.
func stateDamage(err error) error {
	if err == nil || errors.Is(err, ErrStateDamaged) || !isDamage(err) {
		return err
	}
	text, _, _ := strings.Cut(err.Error(), "\n") // Pebble appends lines of its own
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		text = info.Path + ": " + text
	}
	return &damageError{text, err}
}

type damageError struct {
	text  string
	cause error
}

func (e *damageError) Error() string   { return ErrStateDamaged.Error() + ": " + e.text }
func (e *damageError) Unwrap() []error { return []error{ErrStateDamaged, e.cause} }

// damaged marks the error of a read of r's state, and reports the first damage
// that is met to the listener. Every read of stored state passes its error
// through here.
func (r *ReplicaState) damaged(err error) error {
	if err == nil {
		return nil
	}
	if err = stateDamage(err); errors.Is(err, ErrStateDamaged) && r.damage.CompareAndSwap(nil, &err) {
		r.state.tell(EventReplicaDamaged{Replica: r.replica, Err: err})
	}
	return err
}

// Damage is the first ErrStateDamaged that a read of the replica's state met, or nil.
func (r *ReplicaState) Damage() error {
	if err := r.damage.Load(); err != nil {
		return *err
	}
	return nil
}

// Examine reads all that the state holds of the replicas named between two keys,
// the bounds of a damaged table, and returns why those that cannot be read
// cannot be. It reads every block in question, so it takes as long as the disk.
func (s *State) Examine(replicas []Replica, start, end []byte) (map[Replica]error, error) {
	damaged := map[Replica]error{}
	for _, r := range replicas {
		lower, upper := replicaSpan(r)
		if bytes.Compare(start, upper) >= 0 || bytes.Compare(end, lower) < 0 {
			continue
		}
		switch err := s.readAll(lower, upper); {
		case errors.Is(err, ErrStateDamaged):
			damaged[r] = err
		case err != nil:
			return nil, fmt.Errorf("examining the state of %v: %w", r, err)
		}
	}
	return damaged, nil
}

// readAll reads every record between two keys.
func (s *State) readAll(lower, upper []byte) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return stateDamage(err)
	}
	defer func() { _ = it.Close() }() // its errors are told by it.Error
	for ok := it.First(); ok; ok = it.Next() {
		if _, err := it.ValueAndErr(); err != nil {
			return stateDamage(err)
		}
	}
	return stateDamage(it.Error())
}

// Discard removes all that replicas hold whose state is damaged, so that the
// database has no more to do with the damaged tables. Their handles fail from
// then on. Known are all replicas with state in the database: lost ones that are
// neighbors go together, since the block between them may be the damaged one.
func (s *State) Discard(lost, known []Replica) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	for _, r := range lost {
		s.abandon(r)
	}
	known = append(slices.Clone(known), lost...)
	slices.SortFunc(known, func(a, b Replica) int { return bytes.Compare(replicaPrefix(a), replicaPrefix(b)) })
	known = slices.Compact(known)
	var start, end []byte
	for i, r := range known {
		if !slices.Contains(lost, r) {
			continue
		}
		lower, upper := replicaSpan(r)
		if start == nil {
			start = lower
		}
		end = upper
		if i+1 < len(known) && slices.Contains(lost, known[i+1]) {
			continue
		}
		if err := s.exciseSpan(start, end); err != nil {
			return fmt.Errorf("discarding the damaged state of %v: %w", r, err)
		}
		start = nil
	}
	return nil
}

// abandon makes the handle of r fail, before its data goes.
func (s *State) abandon(r Replica) {
	s.mu.Lock()
	rs := s.replicas[r]
	delete(s.replicas, r)
	s.mu.Unlock()
	if rs == nil {
		return
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.replacing.Lock()
	defer rs.replacing.Unlock()
	if rs.destroyed.Swap(true) {
		return
	}
	rs.epoch++
	gone := *rs.ledger.Load()
	gone.applied = position{}
	rs.ledger.Store(&gone)
}

// seeBorders reads what stands on both sides of a span that is to be excised.
// Pebble does so too, to find out what it keeps of a table; but it takes a
// damaged block there for the end of the table (excise.go, determineLeftTableBounds
// and determineRightTableBounds drop the iterator's error), and what the neighbor
// holds in the table would be gone without a word.
func (s *State) seeBorders(start, end []byte) (err error) {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if it.SeekLT(start); it.Error() == nil {
		it.SeekGE(end)
	}
	if err := it.Error(); err != nil {
		// Not an ErrStateDamaged: it is another replica's.
		return fmt.Errorf("what is stored beside it cannot be read: %s", stateDamage(err).Error())
	}
	return nil
}

const (
	// maxCompactionFailures compactions in a row that fail, over at least
	// compactionPatience, break a database. Pebble begins the next one at once, so
	// a damaged table in level 0 keeps a core busy. The time is for the node to
	// find and discard what is damaged; a disk that was full is given it too.
	maxCompactionFailures = 10
	compactionPatience    = time.Minute
)

// compactionFailures counts compactions that fail in a row. Its caller sees to it
// that one call ends before the next begins.
type compactionFailures struct {
	run   int
	since time.Time
}

// ended notes the end of a compaction. It returns an error once there were too
// many failures for too long.
func (f *compactionFailures) ended(err error, now time.Time) error {
	if err == nil {
		f.run = 0
		return nil
	}
	if f.run++; f.run == 1 {
		f.since = now
	}
	if lasted := now.Sub(f.since); f.run >= maxCompactionFailures && lasted >= compactionPatience {
		return fmt.Errorf("%d compactions in a row failed, for %v: %w", f.run, lasted.Round(time.Second), err)
	}
	return nil
}
