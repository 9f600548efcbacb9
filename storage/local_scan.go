package storage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// LocalPage is a part of a node's answer to an eventual scan: what it knows of a
// range of keys, in their order. All that is known is there, tombstones too, so
// that pages can be merged; [LocalPage.Live] is what a reader is shown.
type LocalPage struct {
	LocalState
	Entries []LocalEntry
	// If More is set, the next page begins at Next. A page with More may have
	// nothing to show.
	More bool
	Next []byte
}

// Live gives the entries of those keys that have a value.
func (p *LocalPage) Live() iter.Seq[*LocalEntry] {
	return func(yield func(*LocalEntry) bool) {
		for i := range p.Entries {
			if p.Entries[i].Found && !yield(&p.Entries[i]) {
				return
			}
		}
	}
}

// localScanKeys bounds what one page takes from the tentative log, which is
// locked meanwhile; some more than the limit, as some will not be shown.
const (
	localScanKeys  = 2048
	localScanSpare = 64
)

// localEntryBytes is what an entry takes up in a page beside its key and value:
// a few hundred bytes in memory, less on the wire.
const localEntryBytes = 128

// Scan answers one page of an eventual scan from what this node has. o.Limit
// counts keys with a value. The page is one point in time of the committed
// state; those of different pages are not. Without replica it has only what the
// tentative log has, and must be merged before it is shown.
//
// With [ErrBehind] the page is what the tentative log alone says. Other errors
// are those of State and Log.
func (l Local) Scan(o ScanOptions) (LocalPage, error) {
	if o.Limit < 0 {
		return LocalPage{}, fmt.Errorf("scan limit %d", o.Limit)
	}
	s := localScan{local: l, options: o, known: l.ledger()}
	if len(o.End) > 0 {
		s.end = o.End
	}
	if l.Log != nil { // before the state: see TentativeLog
		most := localScanKeys
		if o.Limit > 0 {
			most = min(most, o.Limit+localScanSpare)
		}
		s.tentative = l.Log.undecidedKeys(o.Start, s.end, most, s.known)
		s.page.FateFloor = l.Log.FateFloor()
		if len(s.tentative) == most { // there may be more behind
			s.end, s.cut = append(slices.Clip(s.tentative[most-1].Key), 0), true
		}
	}
	var err error
	if l.State == nil {
		err = s.run(nil)
	} else {
		err = s.overState(l.State)
	}
	switch {
	case errors.Is(err, ErrViewReplaced):
		return l.Scan(o)
	case errors.Is(err, ErrBehind):
		alone, err := Local{Log: l.Log}.Scan(o)
		return alone, cmp.Or(err, ErrBehind)
	case err != nil:
		return LocalPage{}, err
	}
	return s.page, nil
}

// localScan is a scan of one page.
type localScan struct {
	local     Local
	options   ScanOptions
	tentative []TentativeKey // from where the page is, in order
	end       []byte         // nil for none
	cut       bool           // end is not the scan's but that of what was read of the log
	known     *ledger        // of the state; older than the values, or as old

	page        LocalPage
	live, bytes int
}

func (s *localScan) overState(r *ReplicaState) (err error) {
	v, err := r.View()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	if err := r.state.enter(); err != nil {
		return err
	}
	defer r.state.leave()
	// One iterator over all kinds, so that floor and values stay together even
	// if the replica is replaced meanwhile.
	it, err := v.iterate(append(slices.Clip(r.prefix), kindLedger), prefixEnd(r.users))
	if err != nil {
		return err
	}
	defer func() { _ = it.Close() }() // its errors are told by it.Error
	s.page.State = true
	s.page.Applied, _ = v.Applied()
	if s.page.Behind() {
		return ErrBehind
	}
	if it.First() && it.Key()[len(r.prefix)] == kindLedger {
		record, err := it.ValueAndErr()
		if err != nil {
			return r.damaged(err)
		}
		head, err := decodeLedgerHead(record)
		if err != nil {
			return r.damaged(err)
		}
		s.page.Floor = head.floor
	}
	if err := it.Error(); err != nil { // which the next seek would forget
		return r.damaged(err)
	}
	it.SeekGE(append(slices.Clip(r.users), s.options.Start...))
	return s.run(&stateCursor{r, it})
}

// stateCursor goes over a replica's values.
type stateCursor struct {
	replica *ReplicaState
	it      *pebble.Iterator
}

// key is where the cursor is; nil at the end.
func (c *stateCursor) key() ([]byte, error) {
	if c == nil {
		return nil, nil
	}
	if !c.it.Valid() {
		return nil, c.replica.damaged(c.it.Error())
	}
	_, _, key, err := decodeReplicaKey(c.it.Key())
	return key, c.replica.damaged(err)
}

func (c *stateCursor) value(keysOnly bool) (*Value, error) {
	record, err := c.it.ValueAndErr()
	if err != nil {
		return nil, c.replica.damaged(err)
	}
	v, err := decodeValue(record, &c.replica.nodes)
	if err != nil {
		return nil, c.replica.damaged(fmt.Errorf("%v, key %x: %w", c.replica.replica, c.it.Key(), err))
	}
	if keysOnly {
		v.Bytes = nil
	} else {
		v.Bytes = append([]byte{}, v.Bytes...)
	}
	return &v, nil
}

// run fills the page.
func (s *localScan) run(c *stateCursor) error {
	for {
		key, held, err := s.next(c)
		if err != nil {
			return err
		}
		if key == nil || s.end != nil && bytes.Compare(key, s.end) >= 0 {
			s.page.More, s.page.Next = s.cut, nil
			if s.cut {
				s.page.Next = s.end
			}
			return nil
		}
		if s.options.Limit > 0 && s.live == s.options.Limit || s.bytes >= s.options.pageBytes() || len(s.page.Entries) == maxScanPageSteps {
			s.page.More, s.page.Next = true, bytes.Clone(key)
			return nil
		}
		if err := s.add(c, key, held); err != nil {
			return err
		}
	}
}

// next is the next key, and whether the state holds something of it.
func (s *localScan) next(c *stateCursor) (key []byte, held bool, err error) {
	key, err = c.key()
	if err != nil {
		return nil, false, err
	}
	if len(s.tentative) > 0 && (key == nil || bytes.Compare(s.tentative[0].Key, key) < 0) {
		return s.tentative[0].Key, false, nil
	}
	return key, key != nil, nil
}

// add takes up a key and goes on.
func (s *localScan) add(c *stateCursor, key []byte, held bool) error {
	e := LocalEntry{Key: bytes.Clone(key)}
	if len(s.tentative) > 0 && bytes.Equal(s.tentative[0].Key, key) {
		e.Candidates = s.tentative[0].Candidates
		s.tentative = s.tentative[1:]
	}
	if held {
		v, err := c.value(s.options.KeysOnly)
		if err != nil {
			return err
		}
		e.Held = v
		c.it.Next()
	}
	if e.Held == nil && e.Candidates == nil {
		return nil
	}
	e.decide(s.page.Floor)
	values := localWinner
	if s.options.KeysOnly {
		values = localNone
	}
	decided, err := s.local.fill(&e, values)
	if err != nil {
		return err
	}
	if decided { // the state is newer than the page by now
		r, err := s.local.read(e.Key, values)
		if err != nil {
			return err
		}
		e = r.LocalEntry
		if s.options.KeysOnly && e.Held != nil {
			e.Held.Bytes, e.Bytes = nil, nil
		}
		if e.Held == nil && e.Candidates == nil {
			return nil
		}
	}
	if e.Found {
		s.live++
	}
	s.bytes += localEntryBytes + len(e.Key)
	for _, t := range e.Candidates {
		s.bytes += localEntryBytes + len(t.Bytes)
	}
	if e.Tentative == nil {
		s.bytes += len(e.Bytes)
	}
	s.page.Entries = append(s.page.Entries, e)
	return nil
}
