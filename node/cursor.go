package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// maxCursors bounds the views that this node keeps open for scans merged
	// elsewhere, which pin disk space: two scans of everything by nodes that hold
	// nothing find place, however many partitions there are.
	maxCursors = 2 * partition.MaxCount
	// cursorIdle is how long a view is kept for a scan that does not come back.
	cursorIdle = 10 * time.Second
)

// open begins a scan of one partition at a replica that can answer.
func (r *router) open(ctx context.Context, p partition.ID, part scanPart) (pages, error) {
	return route(ctx, r, p, call[pages]{
		eventually: readEventually,
		here: func(ctx context.Context, here *replica) (pages, error) {
			source, err := here.openPages(ctx, part)
			return r.begun(ctx, part, source, err)
		},
		frame: func() ([]byte, error) { return part.frame(p) },
		decode: func(from partition.NodeID, answer []byte) (pages, error) {
			return r.openRemote(p, from, answer)
		},
	})
}

func (p scanPart) frame(of partition.ID) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(binary.BigEndian.AppendUint32([]byte{byte(hopScanOpen)}, uint32(of)), p.request())
}

// openRemote takes up the first page of a scan at another node.
func (r *router) openRemote(p partition.ID, from partition.NodeID, answer []byte) (*remotePages, error) {
	first, err := decodePage(answer)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", from, err)
	}
	m := &remotePages{router: r, partition: p, node: from, shown: sight{session: new(session.Token), bounded: true}}
	if err := m.take(first); err != nil {
		return nil, err
	}
	return m, nil
}

// localPages reads a view of the replica here.
type localPages struct {
	replica *replica
	view    *storage.ReplicaView
	part    scanPart
	left    uint32 // entries still wanted; meaningful only with a limit
	done    bool
	shown   sight
}

// begun reads the first page of a scan that was opened here: if it cannot be read,
// another replica can still be asked.
func (r *router) begun(ctx context.Context, part scanPart, source pages, err error) (pages, error) {
	if err != nil {
		return nil, err
	}
	first, err := r.readPage(ctx, source)
	if err == nil && part.held != nil {
		err = part.held.take(part.place, first)
	}
	if err != nil {
		source.close()
		return nil, err
	}
	return &begunPages{source, first}, nil
}

// begunPages are pages of which the first has been read.
type begunPages struct {
	pages
	first []*capstanv1.Entry
}

func (b *begunPages) next(ctx context.Context) ([]*capstanv1.Entry, error) {
	if page := b.first; len(page) > 0 {
		b.first = nil
		return page, nil
	}
	return b.pages.next(ctx)
}

// openPages begins a scan of the partition here, as fresh as it asks for.
func (h *replica) openPages(ctx context.Context, part scanPart) (pages, error) {
	past, err := h.sessions.past(part.token)
	if err != nil {
		return nil, err
	}
	if part.level == capstanv1.Consistency_CONSISTENCY_EVENTUAL {
		return h.openNear(ctx, part, wanted(h.partition, past))
	}
	staleness, err := h.current(ctx, part.committedRead, past)
	if err != nil {
		return nil, err
	}
	view, err := h.state.View()
	if err != nil {
		return nil, h.unread(err)
	}
	seen := new(session.Token)
	applied, _ := view.Applied()
	seen.Saw(h.partition, applied)
	return &localPages{replica: h, view: view, part: part, left: part.limit, shown: sight{session: seen, staleness: staleness, bounded: true}}, nil
}

func (l *localPages) sight() sight { return l.shown }

func (l *localPages) next(context.Context) ([]*capstanv1.Entry, error) {
	for !l.done {
		limit := pageEntries
		if l.part.limit > 0 {
			// One more than wanted tells the merge that there are more.
			limit = min(limit, int(l.left)+1)
		}
		found, err := l.view.Scan(storage.ScanOptions{Start: l.part.start, End: l.part.end, KeysOnly: l.part.keysOnly, Limit: limit, Bytes: l.part.bytes})
		if err != nil {
			return nil, l.replica.unread(err)
		}
		l.shown.session.Observe(found.Newest)
		l.part.start, l.done = found.Next, !found.More
		if l.part.limit > 0 {
			l.done = l.done || len(found.Entries) > int(l.left)
			l.left -= min(l.left, uint32(len(found.Entries)))
		}
		if len(found.Entries) == 0 {
			continue // a stretch of deleted keys
		}
		page := make([]*capstanv1.Entry, len(found.Entries))
		for i, e := range found.Entries {
			page[i] = &capstanv1.Entry{Key: e.Key, Value: e.Value, Version: versionMessage(e.Version)}
		}
		return page, nil
	}
	return nil, nil
}

// ended reports whether the last page was given.
func (l *localPages) ended() bool { return l.done }

func (l *localPages) close() { _ = l.view.Close() }

// remotePages reads a view that another node keeps under a cursor; cursor 0
// means that the page at hand is the last.
type remotePages struct {
	router    *router
	partition partition.ID
	node      partition.NodeID
	cursor    uint64
	page      []*capstanv1.Entry
	shown     sight
}

func (m *remotePages) next(ctx context.Context) ([]*capstanv1.Entry, error) {
	if len(m.page) == 0 && m.cursor != 0 {
		answer, err := m.router.peers.hop(ctx, m.node, nextFrame(m.cursor, false))
		if err != nil {
			return nil, err
		}
		got, err := decodePage(answer)
		if err != nil {
			return nil, fmt.Errorf("answer of %s: %w", m.node, err)
		}
		if err := m.take(got); err != nil {
			return nil, err
		}
	}
	page := m.page
	m.page = nil
	return page, nil
}

// take takes up a page that came.
func (m *remotePages) take(got page) error {
	m.cursor, m.page = got.cursor, got.entries
	if got.end == nil {
		return nil // the goodbye to a cursor, or a page after the last
	}
	seen, err := m.router.sessions.read(got.end.GetSession())
	if err != nil {
		return fmt.Errorf("answer of %s: %w", m.node, err)
	}
	if m.router.exchange != nil {
		m.router.exchange.Hear(m.partition, seen.Index(m.partition))
	}
	staleness := got.end.GetFreshness().GetStaleness()
	m.shown.add(sight{
		session: seen, staleness: staleness.AsDuration(), bounded: staleness != nil, tentative: got.end.GetFreshness().GetTentative(),
	})
	return nil
}

func (m *remotePages) sight() sight { return m.shown }

// closeWait bounds the farewell to a cursor that is given up early; the other
// node lets go of it by itself if it is not told.
const closeWait = time.Second

func (m *remotePages) close() {
	if m.cursor == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	_, _ = m.router.peers.hop(ctx, m.node, nextFrame(m.cursor, true))
}

func nextFrame(cursor uint64, stop bool) []byte {
	frame := binary.BigEndian.AppendUint64([]byte{byte(hopScanNext)}, cursor)
	if stop {
		return append(frame, 1)
	}
	return append(frame, 0)
}

// page is a page of entries as it travels between nodes: the cursor for the
// next one, 0 if there is none, and the entries and what was shown so far as a
// ScanResponse.
type page struct {
	cursor  uint64
	entries []*capstanv1.Entry
	end     *capstanv1.ScanEnd
}

func encodePage(p page) ([]byte, error) {
	frame := binary.BigEndian.AppendUint64(nil, p.cursor)
	return proto.MarshalOptions{}.MarshalAppend(frame, &capstanv1.ScanResponse{Entries: p.entries, End: p.end})
}

func decodePage(data []byte) (page, error) {
	if len(data) < 8 {
		return page{}, errors.New("page of a scan: cut short")
	}
	var resp capstanv1.ScanResponse
	if err := proto.Unmarshal(data[8:], &resp); err != nil {
		return page{}, fmt.Errorf("page of a scan: %w", err)
	}
	return page{cursor: binary.BigEndian.Uint64(data), entries: resp.GetEntries(), end: resp.GetEnd()}, nil
}

// cursors are the views that this node keeps open for scans merged elsewhere.
// Safe for concurrent use.
type cursors struct {
	// token writes down what a scan has shown.
	token func(*session.Token) (string, error)

	mu     sync.Mutex
	last   uint64
	open   map[uint64]*cursor
	closed bool
}

type cursor struct {
	mu     sync.Mutex // one page at a time
	pages  pages
	expiry *time.Timer
	gone   bool
}

// begin answers the first page, and keeps the rest under a cursor if there is one.
func (c *cursors) begin(ctx context.Context, source pages) (page, error) {
	cur := &cursor{pages: source}
	c.mu.Lock()
	if c.closed || len(c.open) >= maxCursors {
		full := !c.closed
		c.mu.Unlock()
		source.close()
		if full {
			return page{}, &replication.Error{
				Reason: replication.Overloaded, Outcome: replication.NotApplied,
				Message: fmt.Sprintf("%d scans are under way at this node, which is its limit", maxCursors),
			}
		}
		return page{}, stopping()
	}
	c.last++
	id := c.last
	if c.open == nil {
		c.open = map[uint64]*cursor{}
	}
	cur.expiry = time.AfterFunc(cursorIdle, func() { c.drop(id) })
	c.open[id] = cur
	c.mu.Unlock()
	return c.next(ctx, id)
}

func (c *cursors) next(ctx context.Context, id uint64) (page, error) {
	c.mu.Lock()
	cur := c.open[id]
	c.mu.Unlock()
	if cur == nil {
		return page{}, scanGone()
	}
	cur.mu.Lock()
	defer cur.mu.Unlock()
	if cur.gone {
		return page{}, scanGone()
	}
	cur.expiry.Stop()
	entries, err := cur.pages.next(ctx)
	if err != nil {
		c.forget(id, cur)
		return page{}, err
	}
	shown := cur.pages.sight()
	got := page{entries: entries, end: &capstanv1.ScanEnd{Freshness: shown.freshness("")}}
	if got.end.Session, err = c.token(shown.session); err != nil {
		c.forget(id, cur)
		return page{}, err
	}
	if last, ok := cur.pages.(interface{ ended() bool }); len(entries) == 0 || ok && last.ended() {
		c.forget(id, cur) // most scans need no second trip, and keep no view
		return got, nil
	}
	cur.expiry.Reset(cursorIdle)
	got.cursor = id
	return got, nil
}

// drop lets go of a cursor, after a page that is being read.
func (c *cursors) drop(id uint64) {
	c.mu.Lock()
	cur := c.open[id]
	c.mu.Unlock()
	if cur == nil {
		return
	}
	cur.mu.Lock()
	defer cur.mu.Unlock()
	if !cur.gone {
		c.forget(id, cur)
	}
}

// forget is called with the cursor's lock held.
func (c *cursors) forget(id uint64, cur *cursor) {
	cur.gone = true
	cur.expiry.Stop()
	cur.pages.close()
	c.mu.Lock()
	delete(c.open, id)
	c.mu.Unlock()
}

func (c *cursors) close() {
	c.mu.Lock()
	c.closed = true
	ids := make([]uint64, 0, len(c.open))
	for id := range c.open {
		ids = append(ids, id)
	}
	c.mu.Unlock()
	for _, id := range ids {
		c.drop(id)
	}
}

func scanGone() *replication.Error {
	return &replication.Error{
		Reason: replication.NoReplica, Outcome: replication.NotApplied,
		Message: fmt.Sprintf("the view of this scan is gone: it was idle for %v, or its node restarted", cursorIdle),
		Try:     "the scan again, from the last key that came",
	}
}

func stopping() *replication.Error {
	return &replication.Error{Reason: replication.Stopping, Outcome: replication.NotApplied, Message: "this node is stopping", Try: "another node"}
}
