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
	"github.com/capstan-kv/capstan/storage"
)

const (
	// maxCursors bounds the views that this node keeps open for scans merged
	// elsewhere; each pins disk space.
	maxCursors = 256
	// cursorIdle is how long a view is kept for a scan that does not come back.
	cursorIdle = 10 * time.Second
)

// open begins a scan of one partition at a replica that can answer.
func (r *router) open(ctx context.Context, p partition.ID, part scanPart) (pages, error) {
	return route(ctx, r, p, call[pages]{
		eventually: readEventually,
		here:       func(ctx context.Context, here *replica) (pages, error) { return here.openPages(ctx, part) },
		frame: func() ([]byte, error) {
			request, err := proto.Marshal(&capstanv1.ScanRequest{
				Start: part.start, End: part.end, KeysOnly: part.keysOnly, Limit: part.limit,
			})
			frame := binary.BigEndian.AppendUint32([]byte{byte(hopScanOpen)}, uint32(p))
			return append(frame, request...), err
		},
		decode: func(from partition.NodeID, answer []byte) (pages, error) {
			first, err := decodePage(answer)
			if err != nil {
				return nil, fmt.Errorf("answer of %s: %w", from, err)
			}
			return &remotePages{peers: r.peers, node: from, cursor: first.cursor, page: first.entries}, nil
		},
	})
}

// localPages reads a view of the replica here.
type localPages struct {
	view *storage.ReplicaView
	part scanPart
	left uint32 // entries still wanted; meaningful only with a limit
	done bool
}

func (h *replica) openPages(ctx context.Context, part scanPart) (pages, error) {
	if err := h.fresh(ctx); err != nil {
		return nil, err
	}
	view, err := h.state.View()
	if err != nil {
		return nil, fmt.Errorf("scan partition %d: %w", h.partition, err)
	}
	return &localPages{view: view, part: part, left: part.limit}, nil
}

func (l *localPages) next(context.Context) ([]*capstanv1.Entry, error) {
	for !l.done {
		limit := pageEntries
		if l.part.limit > 0 {
			// One more than wanted tells the merge that there are more.
			limit = min(limit, int(l.left)+1)
		}
		found, err := l.view.Scan(storage.ScanOptions{Start: l.part.start, End: l.part.end, KeysOnly: l.part.keysOnly, Limit: limit})
		if err != nil {
			return nil, err
		}
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

func (l *localPages) close() { _ = l.view.Close() }

// remotePages reads a view that another node keeps under a cursor; cursor 0
// means that the page at hand is the last.
type remotePages struct {
	peers  hopper
	node   partition.NodeID
	cursor uint64
	page   []*capstanv1.Entry
}

func (m *remotePages) next(ctx context.Context) ([]*capstanv1.Entry, error) {
	if len(m.page) == 0 && m.cursor != 0 {
		answer, err := m.peers.hop(ctx, m.node, nextFrame(m.cursor, false))
		if err != nil {
			return nil, err
		}
		got, err := decodePage(answer)
		if err != nil {
			return nil, fmt.Errorf("answer of %s: %w", m.node, err)
		}
		m.cursor, m.page = got.cursor, got.entries
	}
	page := m.page
	m.page = nil
	return page, nil
}

// closeWait bounds the farewell to a cursor that is given up early; the other
// node lets go of it by itself if it is not told.
const closeWait = time.Second

func (m *remotePages) close() {
	if m.cursor == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	_, _ = m.peers.hop(ctx, m.node, nextFrame(m.cursor, true))
}

func nextFrame(cursor uint64, stop bool) []byte {
	frame := binary.BigEndian.AppendUint64([]byte{byte(hopScanNext)}, cursor)
	if stop {
		return append(frame, 1)
	}
	return append(frame, 0)
}

// page is a page of entries as it travels between nodes: the cursor for the
// next one, 0 if there is none, and the entries as a ScanResponse.
type page struct {
	cursor  uint64
	entries []*capstanv1.Entry
}

func encodePage(p page) ([]byte, error) {
	frame := binary.BigEndian.AppendUint64(nil, p.cursor)
	return proto.MarshalOptions{}.MarshalAppend(frame, &capstanv1.ScanResponse{Entries: p.entries})
}

func decodePage(data []byte) (page, error) {
	if len(data) < 8 {
		return page{}, errors.New("page of a scan: cut short")
	}
	var resp capstanv1.ScanResponse
	if err := proto.Unmarshal(data[8:], &resp); err != nil {
		return page{}, fmt.Errorf("page of a scan: %w", err)
	}
	return page{cursor: binary.BigEndian.Uint64(data), entries: resp.GetEntries()}, nil
}

// cursors are the views that this node keeps open for scans merged elsewhere.
// Safe for concurrent use.
type cursors struct {
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
	if err != nil || len(entries) == 0 {
		c.forget(id, cur)
		return page{}, err
	}
	if local, ok := cur.pages.(*localPages); ok && local.done {
		c.forget(id, cur) // most scans need no second trip, and keep no view
		return page{entries: entries}, nil
	}
	cur.expiry.Reset(cursorIdle)
	return page{cursor: id, entries: entries}, nil
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
