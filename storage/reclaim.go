package storage

import (
	"context"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// Reclaim gives the disk back what was cut off from Raft logs: it flushes what
// is in memory, and compacts the logs. Without it that happens in the course of
// further writes. live is how many bytes are left in the logs at most, which are
// written anew: without room for them it ends with [ErrNoRoom]. It may be called
// while the database is in use, one call at a time, and takes as long as the
// disk does.
func (l *Log) Reclaim(ctx context.Context, live uint64) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.leave()
	if err := roomBeside(l.freeze, l.opts.Dir, live); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { // left behind if the database fails, see logFreezeFS
		done <- reclaim(ctx, l.db, []byte{logSpaceReplica}, []byte{logSpaceReplica + 1})
	}()
	select {
	case err := <-done:
		return err
	case <-l.failed:
		return l.failure
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reclaim flushes, and compacts a range.
func reclaim(ctx context.Context, db *pebble.DB, start, end []byte) error {
	flushed, err := db.AsyncFlush()
	if err != nil {
		return err
	}
	select {
	case <-flushed:
	case <-ctx.Done():
		return ctx.Err()
	}
	return db.Compact(ctx, start, end, false)
}

// Reclaim gives the disk back what was deleted or overwritten: it compacts the
// database piece by piece, each only if the disk has room for what the piece
// writes, else it ends with [ErrNoRoom]. Without it that happens in the course
// of further writes. It may be called while the database is in use, one call at
// a time, and takes as long as the disk does.
func (s *State) Reclaim(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.guard(func() error {
		flushed, err := s.db.AsyncFlush()
		if err != nil {
			return err
		}
		select {
		case <-flushed:
		case <-ctx.Done():
			return ctx.Err()
		}
		pieces, err := s.pieces()
		if err != nil {
			return err
		}
		for _, p := range pieces {
			if err := errors.Join(ctx.Err(), roomBeside(s.fs, s.dir, p.writes)); err != nil {
				return err
			}
			if err := s.db.Compact(ctx, p.start, p.end, false); err != nil {
				return err
			}
		}
		return nil
	})
}

// piece is a range to compact, and what that writes at most.
type piece struct {
	start, end []byte
	writes     uint64
}

// pieces are the tables of the lowest level that newer ones overlap.
func (s *State) pieces() ([]piece, error) {
	levels, err := s.db.SSTables()
	if err != nil {
		return nil, err
	}
	low := len(levels) - 1
	for low > 0 && len(levels[low]) == 0 {
		low--
	}
	// Tables of L0 reach over the whole range of keys: to move one down is to
	// write it and the level below it.
	var top uint64
	if len(levels[0]) > 0 {
		base := 1
		for base < low && len(levels[base]) == 0 {
			base++
		}
		for _, t := range slices.Concat(levels[0], levels[base]) {
			top += t.Size
		}
	}
	var out []piece
	for _, t := range levels[low] {
		p := piece{start: t.Smallest.UserKey, end: append(slices.Clone(t.Largest.UserKey), 0), writes: top + t.Size}
		for _, newer := range slices.Concat(levels[:low]...) {
			if s.options.Comparer.Compare(newer.Smallest.UserKey, p.end) < 0 && s.options.Comparer.Compare(newer.Largest.UserKey, p.start) >= 0 {
				out = append(out, p)
				break
			}
		}
	}
	return out, nil
}
