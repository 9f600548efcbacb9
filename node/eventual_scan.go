package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
)

// maxOverlay bounds the keys of hints that a scan takes into account, each of
// which costs a read of its own at another node.
const maxOverlay = 4096

// openNear begins an eventual scan of one partition: at the replica here, or at
// another's with this node's own tentative writes over it.
func (r *router) openNear(ctx context.Context, p partition.ID, part scanPart, past *session.Token) (pages, error) {
	ring := r.ring()
	w := wanted(p, past)
	var refused error
	if here := r.local.replica(p); here != nil && !here.failed() {
		source, err := here.openNear(ctx, part, w)
		if err == nil {
			return source, nil
		}
		refused = err
	}
	log, err := r.exchange.Tentative(p)
	if err != nil {
		return nil, err
	}
	// In this order: what comes here after it was found missing is asked of the
	// other node all the same, and what goes after it was found here has raised
	// the fate floor.
	local := storage.Local{Log: log}
	missing := local.Missing(w.dots)
	own, err := keysIn(local, part)
	if err != nil {
		return nil, err
	}
	elsewhere, err := r.pastElsewhere(p, past, missing, log.FateFloor())
	if err != nil {
		return nil, err
	}
	there := part
	there.token = elsewhere
	if part.limit > 0 { // what is hidden by the overlay has to be made up for
		there.limit = part.limit + uint32(len(own))
	}
	frame, err := there.frame(p)
	if err != nil {
		return nil, err
	}
	for _, node := range r.nearest(ring, p) {
		answer, err := r.peers.hop(ctx, node, frame)
		if err != nil {
			if refused == nil && !errors.Is(err, errNotDelivered) {
				refused = err
			}
			continue
		}
		source, err := r.openRemote(p, node, answer)
		if err != nil {
			return nil, err
		}
		over, err := r.overlay(ctx, ring, p, part, past, own)
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
	if refused != nil {
		return nil, refused
	}
	return nil, noReplica(ring, r.self, p, "")
}

// pastElsewhere is the token of what another node has to hold for this session:
// what is held here is taken from here, and what was forgotten here is decided
// at the fate floor or below.
func (r *router) pastElsewhere(p partition.ID, past *session.Token, missing []storage.DotRange, fateFloor uint64) (string, error) {
	there := &session.Token{}
	there.Saw(p, max(past.Index(p), fateFloor))
	rest := past.Clone()
	held := slices.Collect(dots(past.Undecided(p)).Minus(dots(missing)))
	rest.SettleAll(p, past.Index(p), dots(held))
	there.Merge(rest)
	return r.sessions.token(there)
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
			return nil, &replication.Error{
				Reason: replication.Overloaded, Outcome: replication.NotApplied,
				Message: fmt.Sprintf("this node holds hints for more than %d keys of the range, and no replica", maxOverlay),
				Try:     "another node, or a smaller range",
			}
		}
		if !page.More {
			return keys, nil
		}
		o.Start = page.Next
	}
}

// overlay reads the keys of which this node holds hints one by one; nil if there
// are none.
func (r *router) overlay(ctx context.Context, ring *control.State, p partition.ID, part scanPart, past *session.Token, keys [][]byte) (*overlaid, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	over := &overlaid{hidden: map[string]bool{}, shown: sight{session: &session.Token{}}}
	for _, key := range keys {
		found, err := r.near(ctx, ring, p, key, wanted(p, past), 1)
		if err != nil {
			return nil, err
		}
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
		found, err := n.local.Scan(storage.ScanOptions{Start: n.part.start, End: n.part.end, KeysOnly: n.part.keysOnly, Limit: limit})
		switch {
		case errors.Is(err, storage.ErrBehind):
			return nil, behind(n.replica.partition, err, n.replica.servedBy+" has shown more than it holds now")
		case err != nil:
			return nil, fmt.Errorf("scan partition %d: %w", n.replica.partition, err)
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
