package node

import (
	"bytes"
	"container/heap"
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/budget"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// A page is what travels at once, from a replica to the node that merges
	// and from there to the client: large enough to pay for its trip, small
	// enough that a scan of everything holds little memory.
	pageEntries = 1024
	pageBytes   = 512 << 10
	// scansOpenedAtOnce bounds the partitions that one scan opens side by side.
	scansOpenedAtOnce = 64
	// scanAhead is about what all pages of one scan take up, in bytes: with more
	// partitions each page is smaller, but not below leastPage.
	scanAhead = 4 << 20
	leastPage = 16 << 10
)

// pages are one partition's live entries in key order, from one point in time.
type pages interface {
	// next is the following page; an empty one ends the partition.
	next(ctx context.Context) ([]*capstanv1.Entry, error)
	// sight is what the pages so far have shown.
	sight() sight
	close()
}

// sight is what a scan has shown of partitions.
type sight struct {
	session   *session.Token // nil: nothing
	staleness time.Duration  // an upper bound, if bounded
	bounded   bool
	tentative bool // some entry was not committed
}

// add makes of s what was shown by s and o together.
func (s *sight) add(o sight) {
	if o.session != nil {
		s.session.Merge(o.session)
	}
	s.staleness = max(s.staleness, o.staleness)
	s.bounded = s.bounded && o.bounded
	s.tentative = s.tentative || o.tentative
}

func (s *sight) freshness(servedBy string) *capstanv1.Freshness {
	f := &capstanv1.Freshness{ServedBy: servedBy, Tentative: s.tentative}
	if s.bounded {
		f.Staleness = durationpb.New(s.staleness)
	}
	return f
}

// Scan answers api.KV: it opens one view a partition, each as fresh as the
// request asks for, and merges them in key order.
func (r *router) Scan(ctx context.Context, req *capstanv1.ScanRequest, emit func(*capstanv1.ScanResponse) error) error {
	if err := r.refuses(); err != nil {
		return err
	}
	past, err := r.sessions.past(req.GetSession())
	if err != nil {
		return err
	}
	ring := r.ring()
	if !ring.Placed() {
		return notInCluster()
	}
	part := partOf(req)
	from := partitionsOf(req, len(ring.Partitions))
	part.bytes = pageSize(len(from))
	held := &scanClaim{router: r, pages: make([]int64, len(from))}
	if held.claim, err = r.scans.Claim(&held.owner, 0); err != nil {
		return overloaded(err)
	}
	defer held.claim.Close()
	sources := make([]pages, len(from))
	r.scanning.Add(1)
	defer r.scanning.Done()
	defer func() {
		// All at once: saying goodbye to a node that is silent takes a while.
		var closing sync.WaitGroup
		for _, source := range sources {
			if source != nil {
				closing.Go(source.close)
			}
		}
		closing.Wait()
	}()
	// Every view is opened before the first entry is sent: a partition that
	// cannot be read is found before the client has seen half an answer.
	openers, opening := errgroup.WithContext(ctx)
	openers.SetLimit(scansOpenedAtOnce)
	for i, p := range from {
		part := part
		part.held, part.place = held, i
		w := wanted(p, past) // here: a token is not for several goroutines
		openers.Go(func() (err error) {
			if part.level == capstanv1.Consistency_CONSISTENCY_EVENTUAL {
				sources[i], err = r.openNear(opening, p, part, w)
			} else {
				sources[i], err = r.open(opening, p, part)
			}
			if came, ok := sources[i].(*remotePages); ok && err == nil {
				err = held.take(i, came.page)
			}
			return err
		})
	}
	if err := openers.Wait(); err != nil {
		return err
	}
	more, err := merge(ctx, sources, int(req.GetLimit()), held, emit)
	if err != nil {
		return err
	}
	all := sight{session: past, bounded: true}
	for _, source := range sources {
		all.add(source.sight())
	}
	end := &capstanv1.ScanEnd{More: more, Freshness: all.freshness(nameOf(ring, r.self))}
	if end.Session, err = r.sessions.token(past); err != nil {
		return err
	}
	return emit(&capstanv1.ScanResponse{End: end})
}

// scanPart is what a scan wants of one partition.
type scanPart struct {
	start, end []byte
	keysOnly   bool
	limit      uint32     // 0 = none; a partition need not give more than the whole scan wants
	bytes      int        // about the size of a page; 0 = the largest
	held       *scanClaim // of the scan at this node; nil at another one
	place      int        // among its sources
	committedRead
	token string // the session's
}

func partOf(req *capstanv1.ScanRequest) scanPart {
	start, end := scanRange(req)
	return scanPart{
		start: start, end: end, keysOnly: req.GetKeysOnly(), limit: req.GetLimit(), token: req.GetSession(),
		committedRead: committedRead{req.GetConsistency(), req.GetMaxStaleness().AsDuration()},
	}
}

// request is the part as it travels to another node.
func (p scanPart) request() *capstanv1.ScanRequest {
	req := &capstanv1.ScanRequest{
		Start: p.start, End: p.end, KeysOnly: p.keysOnly, Limit: p.limit, Consistency: p.level, Session: p.token,
	}
	if p.maxStaleness > 0 {
		req.MaxStaleness = durationpb.New(p.maxStaleness)
	}
	return req
}

// scanRange is the half-open range of keys that a request means; an empty end
// is no end.
func scanRange(req *capstanv1.ScanRequest) (start, end []byte) {
	if prefix := req.GetPrefix(); len(prefix) > 0 {
		return prefix, storage.PrefixEnd(prefix)
	}
	return req.GetStart(), req.GetEnd()
}

// pageSize is about the size of a page of a scan that merges so many partitions.
func pageSize(partitions int) int { return min(max(scanAhead/partitions, leastPage), pageBytes) }

// partitionsOf are the partitions that may hold a key of the request: one, if
// its prefix holds a whole hash tag.
func partitionsOf(req *capstanv1.ScanRequest, count int) []partition.ID {
	if prefix := req.GetPrefix(); len(partition.Tag(prefix)) < len(prefix) {
		return []partition.ID{partition.Of(prefix, count)}
	}
	out := make([]partition.ID, count)
	for p := range out {
		out[p] = partition.ID(p)
	}
	return out
}

// merge sends the entries of all sources in key order, limit of them at most
// (0: all), and says whether there are more.
func merge(ctx context.Context, sources []pages, limit int, held *scanClaim, emit func(*capstanv1.ScanResponse) error) (more bool, err error) {
	var heads headHeap
	for i, source := range sources {
		h := &head{source: source, held: held, place: i}
		if ok, err := h.fill(ctx); err != nil {
			return false, err
		} else if ok {
			heads = append(heads, h)
		}
	}
	heap.Init(&heads)
	page, size, sent := make([]*capstanv1.Entry, 0, pageEntries), 0, 0
	flush := func() error {
		if len(page) == 0 {
			return nil
		}
		err := emit(&capstanv1.ScanResponse{Entries: page})
		page, size = make([]*capstanv1.Entry, 0, pageEntries), 0
		return err
	}
	for len(heads) > 0 {
		if limit > 0 && sent == limit {
			more = true
			break
		}
		h := heads[0]
		entry := h.page[0]
		h.page = h.page[1:]
		page, size, sent = append(page, entry), size+len(entry.GetKey())+len(entry.GetValue()), sent+1
		if len(page) == pageEntries || size >= pageBytes {
			if err := flush(); err != nil {
				return false, err
			}
		}
		switch ok, err := h.fill(ctx); {
		case err != nil:
			return false, err
		case ok:
			heap.Fix(&heads, 0)
		default:
			heap.Pop(&heads)
		}
	}
	return more, flush()
}

// scanClaim is what a scan holds of the node's budget: the current page of each source.
type scanClaim struct {
	router *router
	owner  budget.Owner
	claim  *budget.Claim

	mu    sync.Mutex
	pages []int64 // bytes, by source
}

// take says that a source's page has taken the place of its last one.
func (s *scanClaim) take(source int, page []*capstanv1.Entry) error {
	size := int64(0)
	for _, e := range page {
		size += int64(len(e.GetKey()) + len(e.GetValue()) + entryOverhead)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claim.Shrink(s.pages[source])
	s.pages[source] = 0
	if err := s.claim.Grow(size); err != nil {
		refused := overloaded(err)
		refused.Try = "again after a pause, or a scan of keys only, or of one prefix {tag}"
		return refused
	}
	s.pages[source] = size
	return nil
}

// local tells sources that read this node's disk, and wait for nobody.
func local(source pages) bool {
	switch source := source.(type) {
	case *localPages, *nearPages:
		return true
	case *begunPages:
		return local(source.pages)
	}
	return false
}

// readPage reads the next page of a source. A page's size is known once it is made, so
// few are made of this node's disk at a time.
func (r *router) readPage(ctx context.Context, source pages) ([]*capstanv1.Entry, error) {
	if local(source) {
		select {
		case r.pageReads <- struct{}{}:
			defer func() { <-r.pageReads }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return source.next(ctx)
}

// maxPageReads bounds the pages that scans read from this node's disk at a time: each
// is as large as its last value at least, and is counted only then.
const maxPageReads = 16

// entryOverhead is what an entry takes up beside its key and value, in bytes.
const entryOverhead = 256

// head is a source and the rest of its current page.
type head struct {
	source pages
	page   []*capstanv1.Entry
	held   *scanClaim
	place  int // among the sources
}

// fill reports whether there is an entry, after fetching the next page if the
// current one is used up.
func (h *head) fill(ctx context.Context) (bool, error) {
	if len(h.page) > 0 {
		return true, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	page, err := h.held.router.readPage(ctx, h.source)
	if err == nil {
		err = h.held.take(h.place, page)
	}
	h.page = page
	return len(page) > 0 && err == nil, err
}

type headHeap []*head

func (h headHeap) Len() int { return len(h) }
func (h headHeap) Less(i, j int) bool {
	return bytes.Compare(h[i].page[0].GetKey(), h[j].page[0].GetKey()) < 0
}
func (h headHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *headHeap) Push(x any)   { *h = append(*h, x.(*head)) }
func (h *headHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
