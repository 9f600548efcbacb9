package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
)

// maxOverlay bounds the keys of hints that a scan takes into account, each of
// which costs a read of its own at another node, and maxOverlayBytes what they
// take up.
const (
	maxOverlay      = 4096
	maxOverlayBytes = 64 << 20
)

// openNear begins an eventual scan of one partition: at the replica here, or at
// another's with this node's own tentative writes over it.
func (r *router) openNear(ctx context.Context, p partition.ID, part scanPart, w want) (pages, error) {
	ring := r.ring()
	var refused error
	if here := r.serving(p); here != nil {
		source, err := here.openNear(ctx, part, w)
		if source, err = r.begun(ctx, part, source, err); err == nil {
			return source, nil
		}
		refused = err
	}
	log, err := r.exchange.Tentative(p)
	if err != nil {
		return nil, err
	}
	// In this order, as with a read of one key: what is not missing here is among
	// the keys that are read one by one, or has raised the fate floor.
	local := storage.Local{Log: log}
	elsewhere := want{dots: w.elsewhere(local.Missing(w.dots))}
	own, err := keysIn(local, part)
	if err != nil {
		return nil, err
	}
	elsewhere.index = max(w.index, log.FateFloor(), r.settledBy(p))
	there := part
	if there.token, err = r.sessions.tokenOf(p, elsewhere); err != nil {
		return nil, err
	}
	if part.limit > 0 { // what is hidden by the overlay has to be made up for
		there.limit = uint32(min(uint64(part.limit)+uint64(len(own)), math.MaxUint32))
	}
	frame, err := there.frame(p)
	if err != nil {
		return nil, err
	}
	found, err := askInTurn(ctx, asking{r.nearest(ring, p), 1, askPatience},
		func(ctx context.Context, node partition.NodeID) ([]byte, error) { return r.peers.hop(ctx, node, frame) })
	if len(found) == 0 {
		switch {
		case refused != nil:
			return nil, refused
		case isRefusal(err):
			return nil, err
		}
		return nil, noReplica(ring, r.self, p, "")
	}
	source, err := r.openRemote(p, found[0].from, found[0].answer)
	for _, twice := range found[1:] {
		if more, err := r.openRemote(p, twice.from, twice.answer); err == nil {
			more.close()
		}
	}
	if err != nil {
		return nil, err
	}
	over, err := r.overlay(ctx, ring, p, part, w, own)
	if err != nil {
		source.close()
		return nil, err
	}
	if over != nil {
		over.pages = source
		return over, nil
	}
	return source, nil
}

// tokenOf is a token that wants as much of the partition.
func (s *sessions) tokenOf(p partition.ID, w want) (string, error) {
	past := &session.Token{}
	past.Saw(p, w.index)
	past.Needs(p, w.dots)
	return s.token(past)
}

// keysIn are the keys of the range of which tentative writes are held.
func keysIn(local storage.Local, part scanPart) (keys [][]byte, err error) {
	o := storage.ScanOptions{Start: part.start, End: part.end, KeysOnly: true}
	for {
		page, err := local.Scan(o)
		if err != nil {
			return nil, err
		}
		for i := range page.Entries {
			keys = append(keys, page.Entries[i].Key)
		}
		if len(keys) > maxOverlay {
			return nil, tooManyHints()
		}
		if !page.More {
			return keys, nil
		}
		o.Start = page.Next
	}
}

func tooManyHints() *replication.Error {
	return &replication.Error{
		Reason: replication.Overloaded, Outcome: replication.NotApplied,
		Message: fmt.Sprintf("this node holds hints for more than %d keys, or %d MiB, of the range, and no replica that can answer", maxOverlay, maxOverlayBytes>>20),
		Try:     "another node, or a smaller range",
	}
}

// overlayAtOnce is how many of those reads are under way at a time: the view at
// the other node is not kept for long.
const overlayAtOnce = 32

// overlay reads the keys of which this node holds hints one by one; nil if there
// are none.
func (r *router) overlay(ctx context.Context, ring *control.State, p partition.ID, part scanPart, w want, keys [][]byte) (*overlaid, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	reads := make([]nearRead, len(keys))
	var size atomic.Int64
	readers, reading := errgroup.WithContext(ctx)
	readers.SetLimit(overlayAtOnce)
	for i, key := range keys {
		readers.Go(func() (err error) {
			// Not here: if there is a replica, it was behind just now.
			reads[i], err = r.near(reading, ring, p, nil, key, w, 1)
			if size.Add(int64(len(reads[i].Bytes))) > maxOverlayBytes {
				return tooManyHints()
			}
			return err
		})
	}
	if err := readers.Wait(); err != nil {
		return nil, err
	}
	over := &overlaid{hidden: map[string]bool{}, shown: sight{session: &session.Token{}}}
	for i, key := range keys {
		found := &reads[i]
		over.hidden[string(key)] = true
		note(p, over.shown.session, &found.LocalEntry, found.Applied)
		over.shown.tentative = over.shown.tentative || found.Tentative != nil
		if found.Found {
			over.entries = append(over.entries, entryOf(&found.LocalEntry, part.keysOnly))
		}
	}
	return over, nil
}

func entryOf(e *storage.LocalEntry, keysOnly bool) *capstanv1.Entry {
	out := &capstanv1.Entry{Key: e.Key, Version: versionMessage(e.Version)}
	if !keysOnly {
		out.Value = e.Bytes
	}
	return out
}

// overlaid is the pages of another node with some keys read here in their place.
type overlaid struct {
	pages
	entries []*capstanv1.Entry // in order, not given yet
	hidden  map[string]bool    // keys whose entries in the pages do not count
	shown   sight
}

func (o *overlaid) next(ctx context.Context) ([]*capstanv1.Entry, error) {
	for {
		page, err := o.pages.next(ctx)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			rest := o.entries
			o.entries = nil
			return rest, nil
		}
		last := page[len(page)-1].GetKey()
		page = slices.DeleteFunc(page, func(e *capstanv1.Entry) bool { return o.hidden[string(e.GetKey())] })
		n := 0
		for n < len(o.entries) && bytes.Compare(o.entries[n].GetKey(), last) <= 0 {
			n++
		}
		page = append(page, o.entries[:n]...)
		o.entries = o.entries[n:]
		slices.SortFunc(page, func(a, b *capstanv1.Entry) int { return bytes.Compare(a.GetKey(), b.GetKey()) })
		if len(page) > 0 {
			return page, nil
		}
	}
}

func (o *overlaid) sight() sight {
	all := sight{session: &session.Token{}}
	all.add(o.pages.sight())
	all.add(o.shown)
	return all
}

// nearPages reads the replica here together with the tentative writes held
// here, page by page.
type nearPages struct {
	replica *replica
	local   storage.Local
	part    scanPart
	left    uint32 // entries still wanted; meaningful only with a limit
	done    bool
	shown   sight
}

// openNear begins an eventual scan here, once the replica holds what is wanted.
func (h *replica) openNear(ctx context.Context, part scanPart, w want) (pages, error) {
	log, err := h.exchange.Tentative(h.partition)
	if err != nil {
		return nil, err
	}
	if err := h.meets(ctx, log, w); err != nil {
		return nil, err
	}
	return &nearPages{
		replica: h, local: storage.Local{State: h.state, Log: log}, part: part, left: part.limit,
		shown: sight{session: &session.Token{}},
	}, nil
}

func (n *nearPages) next(context.Context) ([]*capstanv1.Entry, error) {
	for !n.done {
		limit := pageEntries
		if n.part.limit > 0 {
			// One more than wanted tells the merge that there are more.
			limit = min(limit, int(n.left)+1)
		}
		found, err := n.local.Scan(storage.ScanOptions{Start: n.part.start, End: n.part.end, KeysOnly: n.part.keysOnly, Limit: limit, Bytes: n.part.bytes})
		switch {
		case errors.Is(err, storage.ErrBehind):
			return nil, behind(n.replica.partition, err, n.replica.servedBy+" has shown more than it holds now")
		case err != nil:
			return nil, n.replica.unread(err)
		}
		var page []*capstanv1.Entry
		for i := range found.Entries { // that a key has no value was shown, too
			e := &found.Entries[i]
			note(n.replica.partition, n.shown.session, e, found.Applied)
			n.shown.tentative = n.shown.tentative || e.Tentative != nil
			if e.Found {
				page = append(page, entryOf(e, n.part.keysOnly))
			}
		}
		n.shown.session.Saw(n.replica.partition, found.Applied)
		n.part.start, n.done = found.Next, !found.More
		if n.part.limit > 0 {
			n.done = n.done || len(page) > int(n.left)
			n.left -= min(n.left, uint32(len(page)))
		}
		if len(page) > 0 {
			return page, nil
		}
	}
	return nil, nil
}

// ended reports whether the last page was given.
func (n *nearPages) ended() bool { return n.done }

func (n *nearPages) sight() sight { return n.shown }

func (n *nearPages) close() {}
