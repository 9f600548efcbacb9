package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// SaveHeard makes durable what the tentative logs of all partitions have heard of,
// in one synced batch; without any change it writes nothing. Afterwards
// [TentativeLog.Saved] gives at least what [TentativeLog.Heard] gave before.
//
// With covers the logs note that what they have heard of covers all that session
// tokens leave out: see Saved. That is never taken back.
//
// The error is [ErrLogFailed] or [ErrLogClosed].
func (l *Log) SaveHeard(covers bool) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.leave()
	// One call at a time, so that no record falls.
	l.tentative.saving.Lock()
	defer l.tentative.saving.Unlock()
	type raised struct {
		log *TentativeLog
		to  tentativeSaved
	}
	var all []raised
	b := l.db.NewBatch()
	for _, t := range l.tentative.all() {
		to := tentativeSaved{index: t.heard.Load()}
		saved, covered := t.Saved()
		if to.covers = covers || covered; to.index <= saved && to.covers == covered {
			continue
		}
		to.index = max(to.index, saved)
		if err := b.Set(tentativeKey(t.partition, tentativeKindSaved, 0), to.encode(), nil); err != nil {
			return errors.Join(err, b.Close())
		}
		all = append(all, raised{t, to})
	}
	if b.Empty() {
		return b.Close()
	}
	if err := l.commit(b, pebble.Sync); err != nil {
		return err
	}
	for _, r := range all {
		r.log.mu.Lock()
		r.log.heardSaved = max(r.log.heardSaved, r.to.index)
		r.log.covers = r.to.covers
		r.log.mu.Unlock()
	}
	return nil
}

// Saved is what a crash cannot take back of [TentativeLog.Heard]. Others may be
// told of it, and session tokens leave out what all nodes have told.
//
// covers says that no session token leaves out a higher index. A node that has
// just joined does not know how far those had come who did not know of it then:
// until it has heard from all of them, it covers nothing.
func (t *TentativeLog) Saved() (index uint64, covers bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.heardSaved, t.covers
}

// all are the logs that were opened so far.
func (s *tentativeLogs) all() []*TentativeLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*TentativeLog, 0, len(s.logs))
	for _, t := range s.logs {
		all = append(all, t)
	}
	return all
}

// tentativeSaved is the record that SaveHeard writes for a partition:
//
//	format:1 index:8 covers:1
type tentativeSaved struct {
	index  uint64
	covers bool
}

func (s tentativeSaved) encode() []byte {
	return append(encodeTentativeIndex(s.index), flag(s.covers, 1))
}

func decodeTentativeSaved(r []byte) (tentativeSaved, error) {
	if err := checkTentativeFormat(r, "tentative log's saved index"); err != nil {
		return tentativeSaved{}, err
	}
	if len(r) != tentativeIndexLen+1 || r[tentativeIndexLen] > 1 {
		return tentativeSaved{}, fmt.Errorf("%w: tentative log's saved index of %d bytes", ErrLogCorrupt, len(r))
	}
	return tentativeSaved{index: binary.BigEndian.Uint64(r[1:]), covers: r[tentativeIndexLen] == 1}, nil
}
